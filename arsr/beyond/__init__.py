"What goes beyond the paper. Each module registers its part of a model, or its formats of files."
from . import distilling as distilling, fast as fast, interop as interop, refining as refining
from . import restoring as restoring, streaming as streaming
