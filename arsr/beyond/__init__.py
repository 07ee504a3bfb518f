"What goes beyond the paper. Each module registers its part of a model, or its formats of files."
from . import distilling, fast, refining, restoring, streaming
