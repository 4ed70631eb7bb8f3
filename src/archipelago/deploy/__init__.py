"""Models that leave: ONNX with everything that raw rows need, checked, measured, used."""
