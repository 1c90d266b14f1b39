"""The parts of `syncd chaos`: nodes with a trainer of their own, what is done to them, and what is seen."""
