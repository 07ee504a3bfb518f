"The networks as graphs: ONNX under onnxruntime, torch.export, torch.compile."
import json, shutil
import pytest, torch
from arsr import ARSR
from arsr.apps.cli import main
from arsr.apps.export import (
    area_weights, export_onnx, graphs, label_rows, neighbours, render_grid, render_liif, write_graph)
from arsr.beyond.fast import FastConfig, FastRenderer, render_fast
from arsr.coords import FULL, cell_size, pixel_centres
from arsr.field import FirstStage, FirstStageConfig
from arsr.liif import LIIF
from arsr.pipeline import sample_labels
from arsr.unet import Denoiser, DenoiserConfig, UNetConfig

WINDOWS = [((40, 50), FULL), ((33, 1), (.1, .2, .63, .9)), ((16, 10), FULL), ((8, 5), (0, 0, .5, 1))]

def points(size, window):
    (h, w), (t, l, b, r) = size, window
    return dict(rows=pixel_centres(h, t, b), cols=pixel_centres(w, l, r), cell=torch.tensor(cell_size(size, window)))

@torch.no_grad()
@pytest.mark.parametrize('size, window', WINDOWS)
def test_renderers_on_a_grid(size, window):
    liif, feat = LIIF(16, hidden=(32, 32)), torch.randn(2, 16, 8, 5)
    fast = FastRenderer(FastConfig(n_feat=16, wide=24, hidden=(8, 8), split=2))
    given, grid = points(size, window), fast.prepare(feat)
    assert (render_liif(liif, feat, **given) - liif.render(feat, size, window)).abs().max() < 1e-5
    assert (render_grid(fast, grid, **given) - render_fast(fast, grid, (8, 5), size, window)).abs().max() < 1e-5

def test_weights_where_all_areas_are_zero():
    "The centre of a corner cell: both shifts of both axes find it, at no distance."
    (_, rel), = [neighbours(torch.tensor([-.75]), 4)]
    assert (area_weights(rel * 0, rel * 0) == .25).all()

def test_rows_of_a_label_are_those_of_generate():
    "Lists keep their order where an object of JavaScript puts whole numbers first."
    meta = dict(categories=['a', 'b'], shares=[.5, .5],
                attributes={'a': {'hair': {'bun': .5, '592454': .5}}, 'b': {'hair': {'bun': 1}}})
    assert label_rows(meta) == {'a': {'hair': [['bun', 1], ['592454', 2]]}, 'b': {'hair': [['bun', 3]]}}
    assert sample_labels(meta, 1, 0, wanted=dict(hair='592454')).tolist() == [[0, 2]]
    assert label_rows({}) == {}

def tiny(**parts):
    first = FirstStage(FirstStageConfig(ch=8, mult=(1, 2), n_res=1, z=2, latent='norm', hidden=(16, 16)))
    def net(**more):
        labels = {} if more else dict(classes=3, attributes=5)
        unet = UNetConfig(ch=8, mult=(1, 2), n_res=1, attn=(), patch=2, **labels)
        made = Denoiser(DenoiserConfig(unet, z=2, prediction_type='v', schedule='cosine', **more))
        for p in made.parameters(): torch.nn.init.normal_(p, std=.2)
        return made
    fast = FastRenderer(FastConfig(n_feat=8, wide=8, hidden=(8, 8), split=2))
    meta = dict(categories=['a', 'b', 'c'], shares=[.2, .3, .5])
    return ARSR(first, net(), net(conditional=True), meta, fast=fast).requires_grad_(False)

@torch.no_grad()
def test_the_renderer_as_onnx_at_other_sizes(tmp_path):
    ort = pytest.importorskip('onnxruntime')
    graph, feat = graphs(tiny())['renderer'], torch.randn(1, 8, 7, 13)
    run = ort.InferenceSession(write_graph(graph, tmp_path/'renderer.onnx')).run
    for size, window in WINDOWS:
        given = dict(feat=feat, **points(size, window))
        ours = torch.from_numpy(run(None, {k: x.numpy() for k, x in given.items()})[0])
        assert (ours - graph.net.render(feat, size, window)).abs().max() < 1e-4

@pytest.mark.slow
@torch.no_grad()
def test_onnx_equals_pytorch_at_other_sizes(tmp_path):
    "Every part, exported once at one size and asked at another, an odd one too; halves change nothing."
    ort = pytest.importorskip('onnxruntime')
    pipe = tiny()
    for p in pipe.parameters(): p.copy_(p.half())
    assert max(export_onnx(pipe, tmp_path, half=True).values()) <= 1e-4
    feat, z = torch.randn(1, 8, 7, 13), torch.randn(1, 2, 7, 13)
    given = {'encoder': dict(image=torch.randn(3, 3, 6, 10)), 'decoder': dict(z=z),
             'renderer': dict(feat=feat, **points(*WINDOWS[1])), 'fast_grid': dict(feat=feat),
             'fast': dict(grid=torch.randn(1, 8, 14, 26), **points(*WINDOWS[2])),
             'generator': dict(z_t=z, t=torch.tensor([9]), label=torch.tensor([[2, 5, 0, 3]])),
             'upscaler': dict(z_t=z, t=torch.tensor([999]), cond=z / 2)}
    assert {p.stem for p in tmp_path.glob('*.onnx')} == given.keys()
    for name, graph in graphs(pipe).items():
        run = ort.InferenceSession(tmp_path/f'{name}.onnx').run(None, {k: x.numpy() for k, x in given[name].items()})
        assert abs(run[0] - graph(*given[name].values()).numpy()).max() < 1e-4
    content = json.loads((tmp_path/'model.json').read_text())
    assert content['denoisers']['generator']['alphas_cumprod'] == pipe.generator.alphas_cumprod.tolist()
    assert content['config']['meta']['categories'] == ['a', 'b', 'c']

@pytest.mark.slow
def test_portraits_take_less_than_20_megabytes(tmp_path):
    pytest.importorskip('onnxruntime')
    assert main(['export', '--weights', 'portraits', '-o', str(tmp_path), '--half']) == 0
    assert 1.5e7 < sum(p.stat().st_size for p in tmp_path.iterdir()) < 2e7

@torch.no_grad()
def test_torch_export_keeps_sizes_open():
    graph = graphs(tiny())['generator'].eval()
    program = torch.export.export(graph, tuple(graph.inputs.values()), dynamic_shapes=(graph.open_axes,))
    label = torch.tensor([[0, 1, 0, 4], [1, 5, 2, 3], [3, 0, 0, 0]])
    other = torch.randn(3, 2, 8, 12), torch.tensor([1, 500, 999]), label
    assert (program.module()(*other) - graph(*other)).abs().max() < 1e-5

@torch.no_grad()
@pytest.mark.parametrize('backend', ['aot_eager', pytest.param('inductor', marks=pytest.mark.slow)])
def test_torch_compile(backend):
    if backend == 'inductor' and not shutil.which('g++'): pytest.skip('no compiler')
    pipe = tiny()
    z, t, label = torch.randn(2, 2, 8, 12), torch.tensor([3, 700]), torch.tensor([[0, 4], [3, 0]])
    net, decoder = (torch.compile(part, backend=backend) for part in (pipe.generator, pipe.first.decoder))
    assert (net(z, t, label=label) - pipe.generator(z, t, label=label)).abs().max() < 1e-5
    assert (decoder(z) - pipe.first.decoder(z)).abs().max() < 1e-5
