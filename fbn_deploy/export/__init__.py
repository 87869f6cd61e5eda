"""From a trained module to a verified file: ONNX, affine folding, precision, verification."""
