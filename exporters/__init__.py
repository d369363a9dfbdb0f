"""What needs torch or onnx to make a checkpoint. The transformer router and the distillation trainer come here next."""

__all__: list[str] = []
