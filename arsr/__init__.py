"Images as continuous functions: arbitrary-scale generation and upsampling with latent diffusion and an implicit neural decoder."
__version__ = "0.1.0"

from . import beyond  # registers its parts and writers
from .data import load_image
from .field import VIEWERS, ImageField
from .pipeline import ARSR

__all__ = ['ARSR', 'ImageField', 'load_image']

def _explore(field, **kwargs):
    from .apps.widgets import explore
    return explore(field, **kwargs)

VIEWERS['explore'] = _explore
