"What the live page needs beside its source: the networks as ONNX, their manifest, and onnxruntime-web."
import hashlib, json, shutil, sys
from pathlib import Path
import torch, torch.nn.functional as F
from einops import rearrange
from arsr import ARSR
from arsr.apps.export import graphs, manifest, store_half, write_graph
from arsr.coords import to_model
from arsr.pipeline import find_weights
from arsr.portraits import Portraits

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = [f'{name}{end}' for name, ends in (
    ('ort.wasm', ['.min.mjs']), ('ort-wasm-simd-threaded', ['.mjs', '.wasm']),  # on every machine
    ('ort.jspi', ['.min.mjs']), ('ort-wasm-simd-threaded.jspi', ['.mjs', '.wasm'])) for end in ends]  # where a GPU is
TASKS = dict(generate='generator', upscale='upscaler')

def small_decoder(pipe, n:int=64, wide:int=48, steps:int=500)->dict: # portraits, hidden units
    """From 3x3 cells of a latent to the pixels of the middle one, for estimates while they come.

    Fitted with noise on the latents: without it the weights grow on differences that sampled latents do not have.
    One more channel is 1 within the picture and 0 around it. Gives `side`, the pixels of a cell, and `layers`:
    (wide, 9 (z + 1)) and (3 side^2, wide + 1).
    """
    size, f, known = pipe.meta['size'], pipe.first.cfg.f, torch.Generator().manual_seed(0)
    source = Portraits()
    x = torch.cat([to_model(source.view(k, size)[None]) for k in range(n)])
    with torch.no_grad(): z = pipe.first.encode(x)
    inputs = rearrange(F.unfold(torch.cat([z, torch.ones_like(z[:, :1])], 1), 3, padding=1), 'n i q -> (n q) i')
    pixels = rearrange(x, 'n c (h a) (w b) -> (n h w) (a b c)', a=f, b=f)
    sizes = (wide, inputs.shape[1]), (pixels.shape[1], wide + 1)
    layers = [(torch.randn(s, generator=known) / s[1]**.5).requires_grad_() for s in sizes]
    opt = torch.optim.Adam(layers, 1e-2)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, 1e-2, steps)
    for _ in range(steps):
        some = torch.randint(len(inputs), (2048,), generator=known)
        noisy = inputs[some] + .2 * torch.randn(inputs[some].shape, generator=known)
        hidden = F.pad((noisy @ layers[0].T).relu(), (0, 1), value=1.)
        F.mse_loss(hidden @ layers[1].T, pixels[some]).backward()
        opt.step()
        plan.step()
        opt.zero_grad()
    return dict(side=f, layers=[[round(v, 4) for v in w.flatten().tolist()] for w in layers])

def fingerprint(folder:Path)->str:
    "Of weights, of what exports them, and of this file: where none has changed, neither has the export."
    code = ROOT/'arsr'/'apps'/'export.py', Path(__file__)
    files = [*sorted(folder.glob('*.safetensors')), folder/'config.json', *code]
    return hashlib.sha256(b''.join(f.read_bytes() for f in files)).hexdigest()[:16]

def write(graph, path:Path):
    "As `arsr.apps.export.write_graph`; a plain network is traced, which takes 3 seconds for a model and not 100."
    import onnx
    if 'rows' in graph.inputs: return write_graph(graph, path, half=True) # renderers compute with sizes
    axes = {name: {k: f'{name}_{k}' for k in dims} for name, dims in zip(graph.inputs, graph.open_axes) if dims}
    torch.onnx.export(graph.eval(), tuple(graph.inputs.values()), str(path), dynamo=False, dynamic_axes=axes,
                      opset_version=20, input_names=list(graph.inputs), output_names=[graph.output])
    model = onnx.load(path)
    store_half(model)
    path.write_bytes(model.SerializeToString())
    return path

STEPS = 12  # at most: a reader waits for them, on whatever machine

def page_options(pipe, task:str)->dict: # 'generate' or 'upscale'
    options = pipe.options(task)
    return options | {'steps': min(options['steps'], STEPS)}

def export(name, cache:Path)->Path: # as for `find_weights`
    "A folder of the page's networks and model.json, with a preview and sizes of files, exported once and kept."
    folder, part = cache/f'{Path(name).name}-{fingerprint(find_weights(name))}', cache/'part'
    if (folder/'model.json').is_file(): return folder
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    pipe = ARSR.from_pretrained(name, device='cpu').float().to(memory_format=torch.contiguous_format)
    found = graphs(pipe)
    if 'upscaler' not in found: del found['encoder'] # the page encodes what it enlarges, and nothing else
    for stem, graph in found.items(): write(graph, part/f'{stem}.onnx')
    model = manifest(pipe, found) | dict(preview=small_decoder(pipe))
    model['options'] = {task: page_options(pipe, task) for task, net in TASKS.items() if net in pipe.parts}
    for file, entry in model['files'].items(): entry['bytes'] = (part/file).stat().st_size
    (part/'model.json').write_text(json.dumps(model))
    return part.rename(folder)

if __name__ == '__main__': # the folder of npm's packages, and the page's folder in the site
    modules, to = map(Path, sys.argv[1:])
    shutil.copytree(export('portraits', ROOT/'.cache'/'onnx'), to/'model', dirs_exist_ok=True)
    (to/'ort').mkdir(exist_ok=True)
    for file in RUNTIME: shutil.copy(modules/'onnxruntime-web'/'dist'/file, to/'ort')
