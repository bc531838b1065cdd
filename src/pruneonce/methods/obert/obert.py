from pruneonce.methods.method import Method


class OptimalSurgeon(Method):
    pass
