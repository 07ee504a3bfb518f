"Images as continuous functions: generate and upsample at any scale with latent diffusion and an implicit decoder."
__version__ = "0.1.0"

import os, sys
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .data import load_image
    from .field import ImageField
    from .pipeline import ARSR

# Threads of OpenMP spin while they wait. On a busy machine (two cores, load 6) six steps of a generator took two threads
# 27 to 52 s, one 6 to 10 s, two that spin only briefly 6 to 8 s; on idle cores nothing is lost. Read as PyTorch loads.
if 'torch' not in sys.modules: os.environ.setdefault('GOMP_SPINCOUNT', '1000')

__all__ = ['ARSR', 'ImageField', 'load_image']
_PLACES = {'ARSR': '.pipeline', 'ImageField': '.field', 'load_image': '.data'}

def one_line(x)->str: # an exception, a file name, ...
    "Its text without line breaks and control characters, which terminals obey."
    def shown(c): return c if c.isprintable() else ' ' if c < '\xa0' else ascii(c)[1:-1]  # bytes of no encoding
    return ''.join(map(shown, str(x))).strip() or type(x).__name__

def note(text:str):
    "One line for whoever watches: what was left out or read in its own way, fails, or takes long."
    print(f'arsr: {text}', file=sys.stderr)

def __getattr__(name): # when one of the three is first asked for: the command line explains itself without PyTorch
    if name not in _PLACES: raise AttributeError(f"module 'arsr' has no attribute '{name}'")
    import_module('.beyond', __name__)  # its parts and writers register themselves
    import_module('.field', __name__).VIEWERS.update({each: partial(_view, each) for each in ('explore', 'zoom')})
    for each, place in _PLACES.items(): globals()[each] = getattr(import_module(place, __name__), each)
    return globals()[name]

def __dir__(): return sorted(globals().keys() | _PLACES)

def _view(name, field, *args, **kwargs): # widgets are imported when the first is opened
    return getattr(import_module('.apps.widgets', __name__), name)(field, *args, **kwargs)
