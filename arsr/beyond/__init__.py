"What goes beyond the paper. Each module registers its part of a model, or its formats of files."
from . import distilling, fast, refining, restoring, streaming
from ..pipeline import PARTS, build_config, register_part  # until the two modules say it themselves
if 'fast' not in PARTS:
    for _name in ('fast', 'refiner_fast'):
        register_part(_name, lambda entry: fast.FastRenderer(build_config(fast.FastConfig, entry)))
if 'distilled' not in PARTS:
    register_part('distilled', lambda entry: distilling.LoRAStudent(build_config(distilling.LoRAConfig, entry)))
