"What the tests share: models small and shipped, a strict check of errors, crops on pixel borders, quiet hypothesis."
import sys
from contextlib import contextmanager
import pytest, torch
from hypothesis import settings, strategies as st
from arsr.data import Drawings
from arsr.field import FirstStage, FirstStageConfig
from arsr.unet import Denoiser, DenoiserConfig, UNetConfig

settings.register_profile('arsr', max_examples=20, deadline=None, derandomize=True, database=None)
settings.load_profile('arsr')
torch.set_num_threads(1)  # the tests run in parallel, one thread a process

LONGEST = 'test_bench', 'test_pipeline', 'test_jupyterlab'  # begun first, so that nobody waits for them at the end

def pytest_collection_modifyitems(items): items.sort(key=lambda item: item.path.stem not in LONGEST)

@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)

def shipped(name):
    "The pipeline that ships under a name, loaded once for all tests; they leave it as they find it."
    from arsr import ARSR
    return ARSR.from_pretrained(name, device='cpu')

@pytest.fixture(autouse=True)
def accelerate_forgets():
    "Accelerate keeps one state a process: without this a test would train in the precision of the one before it."
    yield
    state = sys.modules.get('accelerate.state')
    if state: state.AcceleratorState._reset_state(reset_partial_state=True)

@pytest.fixture(scope='session')
def emoji(): return shipped('emoji')

@pytest.fixture(scope='session')
def photo(): return shipped('photo')

@pytest.fixture(scope='session')
def refuses():
    "`with refuses('words', ...)`: a ValueError of one line that holds these words."
    @contextmanager
    def check(*words):
        with pytest.raises(ValueError) as error: yield
        message = str(error.value)
        assert '\n' not in message
        for word in words: assert word in message
    return check

def descend(opt, loss, steps:int)->list: # of so many steps; `loss` is called without arguments
    "The losses on the way down."
    losses = []
    for _ in range(steps):
        losses.append(loss())
        opt.zero_grad()
        losses[-1].backward()
        opt.step()
    return [x.item() for x in losses]

@st.composite
def crops(draw, side=48):
    "Size of a picture, pixel borders of a crop of it (top, left, bottom, right), and the same borders as a window."
    h, w = draw(st.integers(1, side)), draw(st.integers(1, side))
    t, l = draw(st.integers(0, h - 1)), draw(st.integers(0, w - 1))
    b, r = draw(st.integers(t + 1, h)), draw(st.integers(l + 1, w))
    return (h, w), (t, l, b, r), (t / h, l / w, b / h, r / w)

@pytest.fixture(scope='session')
def drawings(): return Drawings()

@pytest.fixture(scope='session')
def few(drawings):
    "A source of four drawings."
    class Few:
        view, label, groups, kind = drawings.view, drawings.label, drawings.names[:4], drawings.kind[:4]
        def __len__(self): return 4
    return Few()

@pytest.fixture
def first():
    "A tiny first stage, f = 2, in evaluation mode."
    torch.manual_seed(1)
    return FirstStage(FirstStageConfig(ch=8, mult=(1, 2), n_res=1, z=4, latent='norm', hidden=(16, 16))).eval()

@pytest.fixture
def make_denoiser():
    "Builds tiny denoisers whose zero-initialised layers have been woken up, so that every input matters."
    def make(awake=.1, classes=0, attributes=0, attn=(1,), patch=1, mult=(1, 2), **kwargs):
        torch.manual_seed(2)
        unet = UNetConfig(ch=16, mult=mult, n_res=1, attn=attn, patch=patch, classes=classes,
                          attributes=attributes)
        denoiser = Denoiser(DenoiserConfig(unet, z=4, **kwargs))
        for p in denoiser.parameters(): p.data += awake * torch.randn_like(p)
        return denoiser
    return make
