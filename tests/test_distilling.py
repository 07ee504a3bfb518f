"Distillation: trajectories, the low-rank change that is learned from them, and the stage that learns it."
import pytest, torch
import arsr.lab.cards
from torch.testing import assert_close
from arsr.apps.cli import main
from arsr.data import load_image
from arsr.diffusion import cosine_schedule, linear_schedule, sample_ddim, sample_dpmpp_2m, spaced_schedule
from arsr.beyond.distilling import LoRAConfig, LoRAStudent, StudentLoss, Trajectories, alphas_sigmas, ddim_coefficients, trajectory
from arsr.pipeline import ARSR
from arsr.lab.recipes import PRESETS, Preset
from arsr.lab.stages import stamp, train_stage
from arsr.train import Settings
from arsr.unet import DenoiserConfig, UNetConfig
from test_refining import CONFIG, UP, write_pictures

@pytest.fixture
def teacher(make_denoiser): return make_denoiser(prediction_type='v', schedule='cosine', classes=3).requires_grad_(False).eval()

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
    assert torch.equal(spaced_schedule(schedule, steps * substeps).timesteps[::substeps], spaced_schedule(schedule, steps).timesteps)

@pytest.mark.parametrize('steps, substeps', [(4, 3), (1, 5), (3, 1)])
def test_a_trajectory_begins_at_the_noise_and_ends_at_the_clean_latent(teacher, steps, substeps):
    z = torch.randn(2, 4, 8, 8)
    path = trajectory(teacher, z, teacher.alphas_cumprod, steps, substeps)
    assert path.shape == (2, steps + 1, 4, 8, 8) and torch.equal(path[:, 0], z)
    assert torch.equal(path[:, -1], sample_dpmpp_2m(teacher, z, spaced_schedule(teacher.alphas_cumprod, steps * substeps)))

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
    assert all(torch.equal(data[7][k], data[7][k]) for k in ('z', 'target')) and 'label' not in Trajectories(trajectories)[0]

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
    student, batch = LoRAStudent(LoRAConfig(teacher.cfg, rank=4)), first_items(Trajectories(trajectories, torch.arange(6) % 3), 24)
    opt, losses, loss_of = torch.optim.Adam(student.parameters(), 1e-2), [], StudentLoss(teacher)
    for _ in range(30):
        loss = loss_of(student, batch)
        opt.zero_grad(); loss.backward(); opt.step()
        losses.append(loss.item())
    assert losses[-1] < .7 * losses[0] and all(p.grad is None for p in teacher.parameters())

# in use

@pytest.fixture
def pipe(first, teacher): return ARSR(first, teacher, distilled=random_student(teacher), meta={'size': 16, 'categories': ['a / b', 'a / c', 'd / d'], 'shares': [.2, .3, .5]}, device='cpu')

def test_distilled_drawings_are_those_of_the_changed_generator(pipe):
    plain = ARSR(pipe.first, pipe.distilled.merge(pipe.generator), meta=pipe.meta, device='cpu')
    a, b, c = pipe.generate(3, seed=5, distilled=True), plain.generate(3, seed=5, steps=8, sampler='ddim', guidance=1), pipe.generate(3, seed=5)
    assert_close(a.render(size=20), b.render(size=20))
    assert (a.render(size=20) - c.render(size=20)).abs().max() > 1e-3

def test_a_category_counts_for_them_too(pipe):
    one, other = (pipe.generate(1, seed=0, category=c, distilled=True).render(size=16) for c in ('b', 'd'))
    assert (one - other).abs().max() > 1e-4

def test_they_need_one_pass_through_the_network_a_step(pipe, monkeypatch):
    asked, forward = [], type(pipe.generator.unet).forward
    monkeypatch.setattr(type(pipe.generator.unet), 'forward', lambda self, x, *a: asked.append(len(x)) or forward(self, x, *a))
    pipe.generate(2, seed=0, distilled=True)
    assert asked == [2] * 8

def test_it_is_saved_and_opened(pipe, tmp_path):
    again = ARSR.from_pretrained(pipe.save_pretrained(tmp_path), 'cpu')
    assert [*again.parts] == ['first', 'generator', 'distilled'] and again.distilled.cfg == pipe.distilled.cfg
    assert_close(again.generate(2, seed=1, distilled=True).render(size=16), pipe.generate(2, seed=1, distilled=True).render(size=16), atol=.02, rtol=0)

def test_weights_without_it_say_so(pipe, refuses):
    pipe.distilled = None
    with refuses("have no distilled generator", 'leave `distilled` away'): pipe.generate(distilled=True)

# the stage

@pytest.fixture(scope='module')
def trained(tmp_path_factory, drawings):
    "A toy generator, distilled."
    root, net = tmp_path_factory.mktemp('distilled'), DenoiserConfig(UNetConfig(ch=8, mult=(1,), n_res=1, attn=()), z=4, schedule='cosine', prediction_type='v')
    write_pictures(root/'pictures', drawings, 6)
    PRESETS['toy-make'] = Preset('generator', CONFIG, net, base=32, sizes=(32, 48), crop=16, trajectories=6, settings={k: Settings(batch=2, warmup=1) for k in ('first', 'latent', 'distill')})
    PRESETS['toy-up'] = Preset('upscaler', CONFIG, UP, base=32, sizes=(32, 48), crop=16)
    for stage in ('first', 'latent', 'distill'): train_stage('toy-make', stage, root/'run', data=str(root/'pictures'), steps=3)
    yield root
    del PRESETS['toy-make'], PRESETS['toy-up']

def test_the_stage_leaves_a_model_that_takes_few_steps(trained):
    pipe = ARSR.from_pretrained(trained/'run', 'cpu')
    assert [*pipe.parts] == ['first', 'generator', 'distilled'] and any(p.any() for p in pipe.distilled.up.values())
    assert pipe.generate(2, seed=0, distilled=True).render(size=40).shape == (2, 3, 40, 40)

def test_trajectories_are_recorded_once_and_the_stage_goes_on(trained):
    files = lambda: {p.name: p.stat().st_mtime_ns for p in (trained/'run').glob('trajectories-*')}
    before = files()
    state = train_stage('toy-make', 'distill', trained/'run', data=str(trained/'pictures'), steps=5)
    assert state['step'] == 5 and files() == before and len(before) == 1

def test_a_generator_that_has_moved_on_is_not_given_the_change_of_its_past(trained, tmp_path):
    run = tmp_path/'run'
    run.mkdir()
    for p in (trained/'run').iterdir():
        if p.is_file(): (run/p.name).write_bytes(p.read_bytes())
    assert (run/f"distilled-{stamp((run/'generator-latent.safetensors').read_bytes())}.safetensors").exists()
    train_stage('toy-make', 'latent', run, data=str(trained/'pictures'), steps=4)
    assert 'distilled' not in ARSR.from_pretrained(run, 'cpu').parts

def test_a_model_is_shipped_without_what_it_does_not_name(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(arsr.lab.cards, 'write_card', lambda folder, remarks: None)
    (trained/'run'/'refiner.safetensors').write_bytes(b'left behind')
    arsr.lab.cards.ship(trained/'run', tmp_path/'shipped')
    assert {p.name for p in (tmp_path/'shipped').iterdir()} == {'config.json', 'training.json', 'first.safetensors', 'generator.safetensors', 'distilled.safetensors'}
    (trained/'run'/'refiner.safetensors').unlink()

def test_what_cannot_be_distilled_says_so(trained, tmp_path, refuses):
    with refuses('only a generator is distilled'): train_stage('toy-up', 'distill', trained/'run', data=str(trained/'pictures'), steps=1)
    with refuses('run --stage latent into the same folder before'): train_stage('toy-make', 'distill', tmp_path, data=str(trained/'pictures'), steps=1)

# the command

def test_the_command_takes_the_few_steps(pipe, tmp_path, capsys):
    weights, out = pipe.save_pretrained(tmp_path/'weights'), tmp_path/'pictures'
    assert main(['generate', '--weights', str(weights), '--device', 'cpu', '--distilled', '-n', '2', '--seed', '3', '--size', '20', '-o', str(out)]) == 0
    same = ARSR.from_pretrained(weights, 'cpu').generate(2, seed=3, distilled=True).render(size=20)
    for k in range(2): assert_close(load_image(out/f'000{3 + k}.png'), same[k], atol=1 / 255, rtol=0)

@pytest.mark.parametrize('more, decode_rgb', [(['--guidance', '3'], 'has learned its own guidance'), (['--steps', '4'], 'not allowed with argument')])
def test_the_command_does_not_pass_over_what_it_cannot_do(pipe, tmp_path, capsys, more, decode_rgb):
    weights = pipe.save_pretrained(tmp_path/'weights')
    try: code = main(['generate', '--weights', str(weights), '--distilled', '-o', str(tmp_path/'pictures'), *more])
    except SystemExit as e: code = e.code
    err = capsys.readouterr().err
    assert code == 2 and decode_rgb in err and err.count('\n') == 1 and not (tmp_path/'pictures').exists()
