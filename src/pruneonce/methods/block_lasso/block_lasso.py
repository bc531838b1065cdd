from pruneonce.methods.method import Method


class ReweightedLasso(Method):
    pass
