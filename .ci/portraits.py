"""How the weights `portraits` were trained on, step by step; a lesson on each training is in nbs/.

    python .ci/portraits.py latents FOLDER               encode portraits, and their LR inputs
    python .ci/portraits.py generator FOLDER --minutes 80  the denoising loss, begun with the weights that ship
    python .ci/portraits.py align-generator FOLDER       alignment, and as many steps without it, for comparison
    python .ci/portraits.py guide FOLDER --weak FILE     autoguidance distilled into the generator
    python .ci/portraits.py mean FOLDER --other FILE     its weights averaged with those of another state
    python .ci/portraits.py upscaler FOLDER --minutes 30; python .ci/portraits.py align-upscaler FOLDER
    python .ci/portraits.py decoder FOLDER --minutes 60  decoder and LIIF on encoded and on edited latents
    python .ci/portraits.py fast FOLDER --minutes 5      the fast renderer of the new decoder
    python .ci/portraits.py measure FOLDER               what alignment changes in finished pictures

`--fused` trains by the kernels of fused.py, twice as fast on a CPU; `--lr` and `--batch` replace a denoiser's learning
rate and batch; torchrun --nproc_per_node 2 .ci/portraits.py ... shares the batches of a training between processes.
Each step begins with what earlier steps have left in FOLDER, and otherwise with the weights that ship; a step
that was stopped goes on. The encoder stays as it is, so everything trained on its latents stays valid.
"""
import argparse, json, math
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
import numpy as np, torch
import arsr.train
from einops import rearrange
from arsr import ARSR
from arsr.alignment import AlignmentLoss, freeze
from arsr.beyond.fast import DistillationLoss
from arsr.beyond.refining import DecoderLoss
from arsr.coords import FULL, make_cell, make_coord, subwindow, to_model
from arsr.data import Renders, SeededDataset, downsample
from arsr.diffusion import q_sample, sample_dpmpp_2m, spaced_schedule
from arsr.lab.cards import commit, new_features
from arsr.lab.metrics import efflite, frechet, interval, psnr, shrunk_psnr
from arsr.lab.recipes import find_preset
from arsr.lab.stages import LEVELS, lr_view, stage_errors
from arsr.pipeline import WEIGHTS, load_weights, save_weights
from arsr.portraits import Portraits
from arsr.train import Latents, Settings, accelerator, encode_renders, fast_arithmetic, fit, machine, precision
from arsr.unet import AutoguidanceLoss, DenoisingLoss
from fused import fuse

SHIPPED = WEIGHTS/'portraits'
PRESETS = {'generator': find_preset('portraits-generate'), 'upscaler': find_preset('portraits-upscale-8x')}
ENCODED, CONDITIONS, EDITED = 52_000, 4_000, 4_000  # portraits whose latents are kept, LR inputs, latents edited
WINDOW, PATCH = 16, 48  # side of a decoder's window in cells, of its patch in pixels

class Faces(Renders):
    "Portraits rendered when asked for, 40% of them adventurers: line drawings are the hardest to learn."
    def __init__(self, first:int=ENCODED):
        p = PRESETS['generator']
        super().__init__(Portraits('train'), p.base, p.sizes, room=0, first=first)

    def pick(self, rng)->int:
        i = super().pick(rng)
        family = self.source.families[self.source.family(i)]
        return i if family == 'adventurer' or rng.random() < .5 else self.pick(rng)

class Folder:
    "Files of a training, and the models that it has come to."
    fused = False  # train by the kernels of fused.py

    def __init__(self, path): self.path = Path(path)

    def file(self, name:str)->Path: return self.path/f'{name}.safetensors'

    def model(self, part:str, *stages): # 'first', 'generator', ...; names of steps, the latest first
        "A part as the latest of the steps has left it, or as it ships."
        pipe = ARSR.from_pretrained(SHIPPED, device='cpu')
        net = pipe.parts[part]
        for path in map(self.file, stages):
            if path.exists(): return load(net, path)
        return net

    @cached_property
    def first(self): return self.model('first')

    def latents(self, kind:str='z')->torch.Tensor: # or 'cond' -> (n,1,c,h,w)
        p, n = PRESETS['upscaler'], ENCODED if kind == 'z' else CONDITIONS
        view = partial(lr_view, p) if kind == 'cond' else None
        return encode_renders(self.first, Faces(n), self.path/f'{kind}.f16', view)

    def train(self, name:str, net, loss, data, settings:Settings, **budget):
        "Train and leave the averaged weights, and what was done, beside the others."
        learning = [net.decoder, net.liif] if name == 'decoder' else [net]
        for part in learning: part.requires_grad_(True)
        if self.fused: fuse(net)
        state = fit(net, loss, data, self.path/name, settings, **budget)
        if not accelerator().is_main_process: return
        save_weights(net, self.file(name))
        row = dict(steps=state['step'], batch=settings.batch, minutes=round(state['seconds'] / 60, 1),
                   loss=round(state['loss'], 4), hardware=machine(), precision=precision(), seed=settings.seed)
        (self.path/f'{name}.json').write_text(json.dumps(row, indent=1))

def channels_last():
    "Let `fit` lay networks out as the kernels of fused.py want them."
    settings = arsr.train.hardware() | {'layout': torch.channels_last}
    arsr.train.hardware = lambda: settings

def load(net, path): # a module, a weights file -> the module, frozen
    load_weights(net, path)
    return freeze(net)

# ---- the two denoisers

def training_data(folder:Folder, task:str, queries:int=0)->Latents:
    if task == 'generator': return Latents(Faces(), {'z': folder.latents()}, labels=True, queries=queries)
    cache = {'z': folder.latents()[:CONDITIONS], 'cond': folder.latents('cond')}
    return Latents(Faces(CONDITIONS), cache, queries=queries)

def train_denoiser(folder:Folder, task:str, minutes:float, **changes): # of the settings
    settings = replace(PRESETS[task].settings['latent'], **changes)
    net, data = folder.model(task), training_data(folder, task)
    folder.train(f'{task}-latent', net, DenoisingLoss(high=.1), data, settings, minutes=minutes, plan=minutes)

def align(folder:Folder, task:str, minutes:float):
    "Both losses for so many minutes; then the denoising loss alone for as many steps."
    p, name = PRESETS[task], f'{task}-latent'
    first = folder.model('first', 'decoder')
    if folder.fused: fuse(first)
    loss, data = AlignmentLoss(first, w_max=p.w_max), training_data(folder, task, p.queries)
    folder.train(f'{task}-align', folder.model(task, name), loss, data, p.settings['align'], minutes=minutes)
    steps = json.loads((folder.path/f'{task}-align.json').read_text())['steps']
    data = training_data(folder, task)
    folder.train(f'{task}-control', folder.model(task, name), DenoisingLoss(), data, p.settings['align'], steps=steps)
    write_curve(folder, task)

def write_curve(folder:Folder, task:str, n:int=32):
    "Image error of the single-step prediction on held-out portraits, before, with and without alignment."
    p, first, held, steps = PRESETS[task], folder.model('first', 'decoder'), Portraits('valid'), range(0, 1000, 50)
    x = torch.stack([held.view(i, p.base) for i in range(n)])
    lr = torch.cat([lr_view(p, x[i:i + 1], i) for i in range(n)]) if task == 'upscaler' else None
    nets = {stage: folder.model(task, f'{task}-{stage}') for stage in ('latent', 'control', 'align')}
    levels = nets['latent'].alphas_cumprod[list(steps)].tolist()
    curve = {'alphas_cumprod': levels, 'pictures': n} | stage_errors(first, nets, x, lr, steps)
    (folder.path/f'alignment-{task}.json').write_text(json.dumps(curve))

def guide(folder:Folder, weak:Path, minutes:float, scale:float):
    p, steps = PRESETS['generator'], ('generator-align', 'generator-latent')
    strong, early = folder.model('generator', *steps), load(folder.model('generator'), weak)
    loss, data = AutoguidanceLoss(strong, early, scale), training_data(folder, 'generator')
    net = folder.model('generator', *steps)
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout): module.p = 0.
    folder.train('generator-guide', net, loss, data, p.settings['guide'], minutes=minutes, plan=minutes)

def average(folder:Folder, other:Path):
    "The mean of two states of one training, weight by weight (model soups, Wortsman et al. 2022)."
    net, second = folder.model('generator', 'generator-align'), load(folder.model('generator'), other)
    for a, b in zip(net.parameters(), second.parameters()): a.data.lerp_(b.data, .5)
    save_weights(net, folder.file('generator-mean'))

# ---- decoder and fast renderer

def family_alone(label:torch.Tensor)->torch.Tensor: # (1+k,) -> (1+k,), no attribute given
    return torch.cat([label[:1], torch.zeros_like(label[1:])])

@torch.no_grad()
def edited(folder:Folder, task:str)->torch.Tensor: # (n,c,h,w) half precision
    "Latents with noise added, from one of LEVELS, and removed by a denoiser in two to six steps (SDEdit)."
    path, z = folder.path/f'edited-{task}.f16', folder.latents()[:EDITED, 0]
    if not path.exists():
        net = folder.model(task, *(f'{task}-{k}' for k in ('mean', 'guide', 'align', 'latent')))
        if task == 'upscaler': given = dict(cond=folder.latents('cond')[:EDITED, 0].float())
        else: given = dict(label=torch.stack([family_alone(Portraits('train').label(i)) for i in range(EDITED)]))
        rng, done = torch.Generator().manual_seed(0), []
        for k, i in enumerate(torch.arange(EDITED).split(50)):
            level, eps = LEVELS[k % len(LEVELS)], torch.randn(z[i].shape, generator=rng)
            z_t = q_sample(z[i].float(), torch.full((len(i),), level - 1), eps, net.alphas_cumprod)
            schedule = spaced_schedule(net.alphas_cumprod[:level], 1 + level // 80)
            denoise = partial(net, **{name: x[i] for name, x in given.items()})
            with fast_arithmetic('cpu'): done.append(sample_dpmpp_2m(denoise, z_t, schedule).half())
        path.write_bytes(torch.cat(done).numpy().tobytes())
    return torch.from_file(str(path), size=z.numel(), dtype=torch.half).view(z.shape)

class FacePatches(SeededDataset):
    """A patch of a portrait at a random size, and the latent's cells around it.

    A third of the latents is encoded, with a little noise; a third is edited by each denoiser. One batch in three
    sees the whole latent, as a finished picture does; the others a window, which costs a quarter.
    """
    def __init__(self, z:torch.Tensor, edited:dict, noise:float=.1, batch:int=16): # (n,c,h,w) each
        super().__init__()
        self.faces, self.z, self.edited, self.noise, self.batch = Faces(len(z)), z, [*edited.values()], noise, batch

    def __getitem__(self, k:int):
        return self.sample(np.random.default_rng((self.seed, k)), whole=k // self.batch % 3 == 0)

    def latent(self, rng)->tuple: # number of the portrait, (c,h,w)
        kind = int(rng.integers(1 + len(self.edited)))
        if kind:
            i = int(rng.integers(len(self.edited[kind - 1])))
            return i, self.edited[kind - 1][i].float()
        i = self.faces.pick(rng)
        noise = torch.from_numpy(rng.standard_normal(self.z[i].shape, np.float32))
        return i, self.z[i].float() + self.noise * rng.random() * noise

    def sample(self, rng, whole:bool=False)->dict: # z (c,h,w); coord, cell (q,2) and rgb (q,3)
        i, z = self.latent(rng)
        side, cells = int(2**rng.uniform(math.log2(112), 10)), z.shape[-1]
        corner = rng.integers(0, side - PATCH + 1, 2)
        ys, xs = (slice(int(c), int(c) + PATCH) for c in corner)
        window = subwindow(FULL, (side, side), ys, xs)
        item = dict(coord=make_coord(PATCH, window), cell=make_cell(PATCH, window))
        item['rgb'] = rearrange(to_model(self.faces.at(i, side, ys, xs) / 255), 'c h w -> (h w) c')
        if whole: return item | {'z': z}
        first, last = corner / side * cells, (corner + PATCH) / side * cells
        low, high = np.ceil(last - WINDOW).clip(0), np.floor(first).clip(max=cells - WINDOW)
        top, left = map(int, np.clip(np.round((first + last - WINDOW) / 2), low, high))
        start = torch.tensor([top, left])
        item['coord'] = (item['coord'] + 1) * (cells / WINDOW) - 2 * start / WINDOW - 1
        return item | {'cell': item['cell'] * (cells / WINDOW), 'z': z[:, top:top + WINDOW, left:left + WINDOW]}

def train_decoder(folder:Folder, minutes:float):
    p = PRESETS['generator']
    data = FacePatches(folder.latents()[:, 0], {task: edited(folder, task) for task in PRESETS})
    loss = DecoderLoss(0., efflite().perceptual_distance, .04)
    settings = replace(p.settings['finish'], batch=16)
    folder.train('decoder', folder.model('first'), loss, data, settings, minutes=minutes, plan=minutes)

def train_fast(folder:Folder, minutes:float):
    first = folder.model('first', 'decoder')
    def decoded(batch): return first.decoder(batch['z'] + first.cfg.noise * torch.randn_like(batch['z']))
    data = FacePatches(folder.latents()[:, 0], {})
    settings = PRESETS['generator'].settings['fast']
    folder.train('fast', folder.model('fast'), DistillationLoss(first.liif, decoded), data, settings, minutes=minutes)

# ---- what alignment changes

def pipelines(folder:Folder, task:str)->dict: # stage -> model
    first = folder.model('first', 'decoder')
    names = {'before': 'latent', 'control': 'control', 'align': 'align'}
    return {k: ARSR(first=first, **{task: folder.model(task, f'{task}-{v}')}, meta=ARSR.from_pretrained(SHIPPED).meta)
            for k, v in names.items()}

def measure(folder:Folder, n:int=300):
    "Finished pictures of both denoisers against portraits of the validation set, into alignment.json."
    net, found = efflite(version=2), dict(commit=commit(), hardware=machine(), seed=0)
    held = Portraits('valid', seed=21)
    real = net.embed((held.view(k, 128) for k in range(n)), None)
    found['generator'] = {'what': f'FD-EffLite2 of {n} new portraits at 128 px, guidance 2, against {n} of the '
                                  'validation set (seed 21)'}
    for k, pipe in pipelines(folder, 'generator').items():
        row = interval(new_features(pipe, {128: n})[128], real)
        found['generator'][k] = {name: round(row[name], 1) for name in ('fd', 'se')}
    found['upscaler'] = {'what': f'{n // 3} faces of the validation set (seed 41), 16 to 128 px, one sample; '
                                 f'FD-EffLite2 against {n // 3} others'}
    held, others = Portraits('valid', seed=41), Portraits('valid', seed=42)
    truth, more = (torch.stack([x.view(k, 128) for k in range(n // 3)]) for x in (held, others))
    lr, real = downsample(truth, 8), net.embed(more)
    for k, pipe in pipelines(folder, 'upscaler').items():
        x = torch.cat([pipe.upscale(part, seed=0, back_project=False).render(size=128) for part in lr.split(20)])
        row = dict(psnr=psnr(x, truth), pd2=net.distance(x, truth), consistency=shrunk_psnr(x, lr))
        means = {name: round(v.mean().item(), 4) for name, v in row.items()}
        found['upscaler'][k] = means | {'fd': round(frechet(net.embed(x), real), 1)}
    (folder.path/'alignment.json').write_text(json.dumps(found, indent=1))

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('step')
    parser.add_argument('folder', type=Folder)
    parser.add_argument('--minutes', type=float, default=8)
    parser.add_argument('--weak', type=Path)
    parser.add_argument('--other', type=Path)
    parser.add_argument('--scale', type=float, default=2.)
    parser.add_argument('--lr', type=float)
    parser.add_argument('--batch', type=int)
    parser.add_argument('--fused', action='store_true')
    a = parser.parse_args()
    a.folder.path.mkdir(parents=True, exist_ok=True)
    a.folder.fused = a.fused
    if a.fused: channels_last()
    changes = {name: value for name, value in dict(lr=a.lr, batch=a.batch).items() if value}
    steps = {
        'latents': lambda: [a.folder.latents(kind) for kind in ('z', 'cond')],
        'decoder': partial(train_decoder, a.folder, a.minutes), 'fast': partial(train_fast, a.folder, a.minutes),
        'mean': partial(average, a.folder, a.other),
        'guide': partial(guide, a.folder, a.weak, a.minutes, a.scale), 'measure': partial(measure, a.folder),
        **{task: partial(train_denoiser, a.folder, task, a.minutes, **changes) for task in PRESETS},
        **{f'align-{task}': partial(align, a.folder, task, a.minutes) for task in PRESETS}}
    if a.step not in steps: parser.error(f"no step '{a.step}'; choose one of {', '.join(steps)}")
    steps[a.step]()
