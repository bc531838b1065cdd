from pruneonce.methods.method import Method


class CompressionAware(Method):
    pass
