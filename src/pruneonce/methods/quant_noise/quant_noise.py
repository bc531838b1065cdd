from pruneonce.methods.method import Method


class QuantizationNoise(Method):
    pass
