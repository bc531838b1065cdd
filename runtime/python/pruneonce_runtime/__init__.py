"""Run the sparse, quantized text encoders in .pruneonce files, without PyTorch."""
