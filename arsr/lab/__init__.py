"Evidence and recipes. All that goes beyond the method is registered before."
from .. import beyond as beyond
