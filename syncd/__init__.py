"""syncd: gets a trainer's finished checkpoints off machines that vanish, and back onto the next one.

Names that plugins may use are here and in `syncd.store`, `syncd.errors`, `syncd.hooks`, `syncd.config`,
`syncd.model`, `syncd.local.digest`, `syncd.local.completion`, `syncd.cli.options`, `syncd.cli.output`, `syncd.testing`.
"""

from pluggy import HookimplMarker

__version__ = "0.1.0"
hookimpl = HookimplMarker("syncd")

__all__ = ["__version__", "hookimpl"]
