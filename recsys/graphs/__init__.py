"""ONNX graphs of trained modules: traced once, filled with the weights of each training, compared with the module."""
