"Distillation: trajectories, the low-rank change that is learned from them, and the stage that learns it."
import copy
import pytest, torch
import arsr.lab.cards
import arsr.train
from PIL import Image
from torch.testing import assert_close
from conftest import descend
from arsr.apps.cli import main
from arsr.beyond.distilling import (
    LoRAConfig, LoRAStudent, StudentLoss, Trajectories, alphas_sigmas, ddim_coefficients, trajectory)
from arsr.data import load_image
from arsr.diffusion import cosine_schedule, linear_schedule, sample_ddim, sample_dpmpp_2m, spaced_schedule
from arsr.field import FirstStageConfig, to_bytes
from arsr.lab.recipes import PRESETS, Preset
from arsr.lab.stages import Run, train_stage
from arsr.pipeline import ARSR
from arsr.train import Settings
from arsr.unet import DenoiserConfig, UNetConfig

@pytest.fixture
def teacher(make_denoiser):
    return make_denoiser(prediction_type='v', schedule='cosine', classes=3).requires_grad_(False).eval()

@pytest.fixture
def trajectories(teacher): return trajectory(teacher, torch.randn(6, 4, 8, 8), teacher.alphas_cumprod)

def random_student(generator, rank=2):
    "A change that does something."
    student = LoRAStudent(LoRAConfig(generator.cfg, rank=rank))
    for p in student.up.values(): torch.nn.init.normal_(p, std=.1)
    return student

# trajectories

@pytest.mark.parametrize('schedule', [cosine_schedule(), linear_schedule()])
@pytest.mark.parametrize('steps', [1, 2, 4, 6])
@pytest.mark.parametrize('substeps', [1, 2, 3, 5])
def test_a_sampler_of_substeps_visits_every_noise_level_of_the_student(schedule, steps, substeps):
    patient, student = spaced_schedule(schedule, steps * substeps), spaced_schedule(schedule, steps)
    assert torch.equal(patient.timesteps[::substeps], student.timesteps)

@pytest.mark.parametrize('steps, substeps', [(4, 3), (1, 5), (3, 1)])
def test_a_trajectory_begins_at_the_noise_and_ends_at_the_clean_latent(teacher, steps, substeps):
    z = torch.randn(2, 4, 8, 8)
    path = trajectory(teacher, z, teacher.alphas_cumprod, steps, substeps)
    assert path.shape == (2, steps + 1, 4, 8, 8) and torch.equal(path[:, 0], z)
    end = sample_dpmpp_2m(teacher, z, spaced_schedule(teacher.alphas_cumprod, steps * substeps))
    assert torch.equal(path[:, -1], end)

def recorded(denoise, path):
    "The same denoiser, which appends (z_t, x0) to `path`."
    def denoise_and_record(z_t, t):
        x0 = denoise(z_t, t)
        path.append((z_t, x0))
        return x0
    return denoise_and_record

def test_a_ddim_step_is_keep_and_add(teacher):
    z, schedule, path = torch.randn(2, 4, 8, 8), spaced_schedule(teacher.alphas_cumprod, 3), []
    m, s = alphas_sigmas(schedule)
    end = sample_ddim(recorded(teacher, path), z, schedule)
    for k, (z_t, x0) in enumerate(path):
        keep, add = ddim_coefficients(m, s, torch.full((2,), k))
        assert_close(keep * z_t + add * x0, path[k + 1][0] if k < 2 else end, atol=1e-5, rtol=1e-5)

def test_steps_fit_together(trajectories):
    data = Trajectories(trajectories, torch.arange(6))
    items = [data[k] for k in range(200)]
    assert {i['step'] for i in items} == set(range(8)) and {int(i['label']) for i in items} == set(range(6))
    for i in items:
        path = trajectories[i['label']]
        assert torch.equal(i['z'], path[i['step']]) and torch.equal(i['target'], path[i['step'] + 1])
    assert all(torch.equal(data[7][k], data[7][k]) for k in ('z', 'target'))
    assert 'label' not in Trajectories(trajectories)[0]

# the change

def test_a_fresh_change_changes_nothing(teacher):
    fresh, x = LoRAStudent(LoRAConfig(teacher.cfg)), torch.randn(2, 4, 8, 8)
    t, label = torch.tensor([3, 700]), torch.tensor([0, 2])
    assert torch.equal(fresh.merge(teacher)(x, t, label=label), teacher(x, t, label=label))

def test_a_change_has_its_rank_and_reaches_every_layer(teacher):
    merged, layers = random_student(teacher).merge(teacher), 0
    for name, layer in teacher.named_modules():
        if not isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)): continue
        change = (merged.get_submodule(name).weight - layer.weight).flatten(1)
        assert torch.linalg.matrix_rank(change, rtol=1e-3) == min(2, *change.shape)
        layers += 1
    assert layers == len(random_student(teacher).up) > 10

def test_the_generator_itself_stays_as_it_was(teacher):
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    random_student(teacher).merge(teacher)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())

def first_items(data, n): return torch.utils.data.default_collate([data[k] for k in range(n)])

def test_the_loss_sees_what_the_sampler_will_use(teacher, trajectories):
    "Zero for the trajectory that the changed generator itself takes in DDIM steps, and above zero for another."
    student, z, label, path = random_student(teacher), torch.randn(3, 4, 8, 8), torch.tensor([0, 1, 2]), []
    merged = student.merge(teacher)
    def denoise(z_t, t): return merged(z_t, t, label=label)
    end = sample_ddim(recorded(denoise, path), z, spaced_schedule(teacher.alphas_cumprod, 8))
    own, other = torch.stack([*(z_t for z_t, _ in path), end], 1), torch.zeros(6, dtype=torch.long)
    loss = StudentLoss(teacher)
    assert loss(student, first_items(Trajectories(own, label), 12)) < 1e-8
    assert loss(student, first_items(Trajectories(trajectories, other), 12)) > 1e-3

def test_only_the_change_learns(teacher, trajectories):
    student, loss_of = LoRAStudent(LoRAConfig(teacher.cfg, rank=4)), StudentLoss(teacher)
    batch = first_items(Trajectories(trajectories, torch.arange(6) % 3), 24)
    opt = torch.optim.Adam(student.parameters(), 1e-2)
    losses = descend(opt, lambda: loss_of(student, batch), 30)
    assert losses[-1] < .7 * losses[0] and all(p.grad is None for p in teacher.parameters())

# in use

META = {'name': 'toy', 'size': 16, 'factor': 4, 'categories': ['a / b', 'a / c', 'd / d'], 'shares': [.2, .3, .5]}

@pytest.fixture
def pipe(first, teacher): return ARSR(first, teacher, distilled=random_student(teacher), meta=META)

def test_distilled_drawings_are_those_of_the_changed_generator(pipe):
    plain = ARSR(pipe.first, pipe.distilled.merge(pipe.generator), meta=pipe.meta)
    distilled = pipe.generate(3, seed=5, distilled=True).render(size=20)
    assert_close(distilled, plain.generate(3, seed=5, steps=8, sampler='ddim', guidance=1).render(size=20))
    assert (distilled - pipe.generate(3, seed=5).render(size=20)).abs().max() > 1e-3

def test_the_student_is_merged_once_and_anew_when_weights_change(pipe, monkeypatch):
    merges, merge = [], LoRAStudent.merge
    monkeypatch.setattr(LoRAStudent, 'merge', lambda self, net: merges.append(0) or merge(self, net))
    pipe, names = copy.deepcopy(pipe), [*pipe.state_dict()]
    a, again = (pipe.generate(1, seed=0, distilled=True).feat for _ in range(2))
    assert len(merges) == 1 and torch.equal(a, again)
    assert [*pipe.parts] == ['first', 'generator', 'distilled'] and [*pipe.state_dict()] == names
    with torch.no_grad(): next(iter(pipe.distilled.up.values())).add_(1.)
    changed = pipe.generate(1, seed=0, distilled=True).feat
    pipe.double().float().generate(1, seed=0, distilled=True)
    assert len(merges) == 3 and not torch.equal(a, changed)

def test_a_category_counts_for_them_too(pipe):
    one, other = (pipe.generate(1, seed=0, category=c, distilled=True).render(size=16) for c in ('b', 'd'))
    assert (one - other).abs().max() > 1e-4

def test_they_need_one_network_evaluation_a_step(pipe, monkeypatch):
    UNet, sizes = type(pipe.generator.unet), []
    forward = UNet.forward
    def noted(self, x, *args):
        sizes.append(len(x))
        return forward(self, x, *args)
    monkeypatch.setattr(UNet, 'forward', noted)
    pipe.generate(2, seed=0, distilled=True)
    assert sizes == [2] * 8

def test_it_is_saved_and_opened(pipe, tmp_path):
    again = ARSR.from_pretrained(pipe.save_pretrained(tmp_path), 'cpu')
    assert [*again.parts] == ['first', 'generator', 'distilled'] and again.distilled.cfg == pipe.distilled.cfg
    a, b = (model.generate(2, seed=1, distilled=True).render(size=16) for model in (again, pipe))
    assert_close(a, b, atol=.02, rtol=0)

def test_weights_without_it_say_so(first, teacher, refuses):
    with refuses("the weights 'toy' cannot", 'no distilled'):
        ARSR(first, teacher, meta=META).generate(distilled=True)

# the stage

def toy(task, **kwargs):
    first = FirstStageConfig(ch=8, mult=(1, 2, 2), n_res=1, z=4, latent='norm', hidden=(16, 16))
    unet = UNetConfig(ch=8, mult=(1,), n_res=1, attn=())
    net = DenoiserConfig(unet, z=4, conditional=task == 'upscaler', schedule='cosine', prediction_type='v')
    return Preset(task, first, net, base=32, sizes=(32, 48), crop=16, **kwargs)

@pytest.fixture(scope='module')
def trained(tmp_path_factory, drawings):
    "A toy generator, distilled."
    root = tmp_path_factory.mktemp('distilled')
    (root/'pictures').mkdir()
    for i in range(6): Image.fromarray(to_bytes(drawings.view(31 * i, 64))).save(root/'pictures'/f'{i}.png')
    settings = {stage: Settings(batch=2, warmup=1) for stage in ('first', 'latent', 'distill')}
    plain = dict(mixed_precision='no', layout=torch.contiguous_format, workers=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arsr.train, 'hardware', lambda: plain)
        patch.setitem(PRESETS, 'toy-make', toy('generator', trajectories=6, settings=settings))
        patch.setitem(PRESETS, 'toy-up', toy('upscaler'))
        for stage in settings: train_toy(root, stage)
        yield root

def train_toy(root, stage, preset='toy-make', out=None, steps=3):
    return train_stage(preset, stage, out or root/'run', data=str(root/'pictures'), steps=steps)

def test_the_stage_leaves_a_model_that_takes_few_steps(trained):
    pipe = ARSR.from_pretrained(trained/'run', 'cpu')
    assert [*pipe.parts] == ['first', 'generator', 'distilled'] and any(p.any() for p in pipe.distilled.up.values())
    assert pipe.generate(2, seed=0, distilled=True).render(size=40).shape == (2, 3, 40, 40)

def test_trajectories_are_recorded_once_and_the_stage_goes_on(trained):
    def files(): return {p.name: p.stat().st_mtime_ns for p in (trained/'run').glob('trajectories-*')}
    before = files()
    state = train_toy(trained, 'distill', steps=5)
    assert state['step'] == 5 and files() == before and len(before) == 1

def test_a_generator_that_has_moved_on_is_not_given_the_change_of_its_past(trained, tmp_path):
    run = tmp_path/'run'
    run.mkdir()
    for p in (trained/'run').iterdir():
        if p.is_file(): (run/p.name).write_bytes(p.read_bytes())
    toy = Run(PRESETS['toy-make'], run)
    assert toy.file(f'distilled-{toy.generator_stamp}').exists()
    train_toy(trained, 'latent', out=run, steps=4)
    assert 'distilled' not in ARSR.from_pretrained(run, 'cpu').parts

def test_a_model_is_shipped_without_what_it_does_not_name(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(arsr.lab.cards, 'write_card', lambda folder, remarks: None)
    (trained/'run'/'refiner.safetensors').write_bytes(b'left behind')
    arsr.lab.cards.ship(trained/'run', tmp_path/'shipped')
    parts = {f'{part}.safetensors' for part in ('first', 'generator', 'distilled')}
    others = {'config.json', 'training.json', 'README.md'}
    assert {p.name for p in (tmp_path/'shipped').iterdir()} == others | parts
    (trained/'run'/'refiner.safetensors').unlink()

def test_what_cannot_be_distilled_says_so(trained, tmp_path, refuses):
    with refuses("only generators have a stage 'distill'"): train_toy(trained, 'distill', 'toy-up', steps=1)
    with refuses('run --stage latent into the same folder before'): train_toy(trained, 'distill', out=tmp_path, steps=1)

# the command

def test_the_command_takes_the_few_steps(pipe, tmp_path, capsys):
    weights, out = str(pipe.save_pretrained(tmp_path/'weights')), tmp_path/'pictures'
    options = ['--device', 'cpu', '--distilled', '-n', '2', '--seed', '3', '--size', '20', '-o', str(out)]
    assert main(['generate', '--weights', weights, *options]) == 0
    same = ARSR.from_pretrained(weights, 'cpu').generate(2, seed=3, distilled=True).render(size=20)
    for k in range(2): assert_close(load_image(out/f'000{3 + k}.png'), same[k], atol=1 / 255, rtol=0)

@pytest.mark.parametrize('option, value', [('--guidance', '3'), ('--steps', '4')])
def test_the_command_does_not_pass_over_what_it_cannot_do(pipe, tmp_path, capsys, option, value):
    weights, out = str(pipe.save_pretrained(tmp_path/'weights')), tmp_path/'pictures'
    options = ['--device', 'cpu', '--distilled', '-o', str(out), option, value]
    try: code = main(['generate', '--weights', weights, *options])
    except SystemExit as e: code = e.code
    err = capsys.readouterr().err
    assert code == 2 and option.strip('-') in err and err.count('\n') == 1 and not out.exists()
