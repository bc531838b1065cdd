"""Property of OpenVINO for sparse int8 models, which the engine sets and model cards state.

https://docs.openvino.ai/2026/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html
"""

# Layers with at least this share of zeros take a kernel that skips them, which OpenVINO 2026.4 has for AMX alone.
LEAST_ZEROS = 0.7
SPARSE = {"CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": LEAST_ZEROS}
