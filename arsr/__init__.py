"Images as continuous functions: generate and upsample at any scale with latent diffusion and an implicit decoder."
__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .data import load_image
    from .field import ImageField
    from .pipeline import ARSR

__all__ = ['ARSR', 'ImageField', 'load_image']
_PLACES = {'ARSR': '.pipeline', 'ImageField': '.field', 'load_image': '.data'}

def __getattr__(name): # when one of the three is first asked for: the command line explains itself without PyTorch
    if name not in _PLACES: raise AttributeError(f"module 'arsr' has no attribute '{name}'")
    import_module('.beyond', __name__)  # its parts and writers register themselves
    import_module('.field', __name__).VIEWERS['explore'] = _explore
    for each, place in _PLACES.items(): globals()[each] = getattr(import_module(place, __name__), each)
    return globals()[name]

def __dir__(): return sorted(globals().keys() | _PLACES)

def _explore(field, **kwargs): return import_module('.apps.widgets', __name__).explore(field, **kwargs)
