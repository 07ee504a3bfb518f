import atexit, math, subprocess, sys, time
from functools import partial
from pathlib import Path
from unittest.mock import MagicMock
import fastprogress.fastprogress, pytest, matplotlib.pyplot as plt, numpy as np, torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close
import arsr.train
from arsr.coords import resize, to_model
from arsr.data import Renders, downsample, open_source
from arsr.field import FirstStageLoss
from arsr.train import (
    PATIENCE, EMA, Latents, NotebookReport, Report, Settings, accelerator, batches, check_inputs, count_flops,
    encode_renders, fit, hardware, in_notebook, learning_rate, load_checkpoint, low_resolution, save_checkpoint)
from arsr.unet import DenoisingLoss

# pieces

def test_hardware_names_a_precision_and_a_layout():
    hw = hardware()
    assert hw['mixed_precision'] in ('no', 'bf16', 'fp16')
    assert hw['layout'] in (torch.contiguous_format, torch.channels_last)

def test_the_group_of_processes_is_left_once():
    accelerator()
    before = atexit._ncallbacks()
    accelerator()
    assert atexit._ncallbacks() == before

@pytest.mark.parametrize('real, expected', [(True, 'bf16'), (False, 'fp16')])
def test_emulated_bf16_is_none(monkeypatch, real, expected):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation=True: real or including_emulation)
    assert hardware()['mixed_precision'] == expected

def test_ema_is_the_weighted_sum_of_all_weights_so_far():
    model, values = nn.Linear(1, 1), [1., 4., -2., 8.]
    model.weight.data.fill_(values[0])
    ema, expected = EMA(model, decay=.15), values[0]
    for step, value in enumerate(values[1:]):
        model.weight.data.fill_(value)
        ema.update_parameters(model)
        decay = min(.15, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert ema.module.weight.item() == pytest.approx(expected, rel=1e-5)
    assert model.weight.item() == 8.  # the model itself is left alone

def test_ema_settles_on_weights_that_do_not_move_and_copies_counters():
    model = nn.BatchNorm2d(2)
    ema = EMA(model, decay=.9)
    model(torch.randn(4, 2, 3, 3) + 5)
    for _ in range(200): ema.update_parameters(model)
    for k, v in model.state_dict().items(): assert_close(ema.module.state_dict()[k], v, atol=1e-4, rtol=0)
    assert ema.module.num_batches_tracked == 1

def test_learning_rate_warms_up_and_falls_on_a_cosine_to_zero():
    assert [learning_rate(0, step, warmup=4) for step in (0, 1, 3, 9)] == [.25, .5, 1, 1]
    assert [learning_rate(p, 10**6) for p in (0, .5, 1, 2)] == pytest.approx([1, .5, 0, 0])
    falling = [learning_rate(p, 10**6) for p in np.linspace(0, 1, 30)]
    assert falling == sorted(falling, reverse=True)

# checkpoints

class Toy(torch.utils.data.Dataset):
    def __len__(self): return 2**40
    def __getitem__(self, k): return torch.from_numpy(np.random.default_rng(k).standard_normal(4, dtype=np.float32))

def make_model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(.3), nn.Linear(8, 1))

def noisy_loss(model, x): return (model(x) - x.sum(1, keepdim=True) + .1 * torch.randn(len(x), 1)).square().mean()

SETTINGS = Settings(batch=4, warmup=2)

def plain(workers=0): return dict(mixed_precision='no', layout=torch.contiguous_format, workers=workers)

class Clock:
    "Stands in for the module `time`; a training step takes one second, or what `step` says."
    now, step, perf_counter = 0., 1, staticmethod(time.perf_counter)
    def time(self): return self.now
    def ticking(self, loss):
        def timed(model, batch):
            self.now += self.step
            return loss(model, batch)
        return timed

@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(arsr.train, 'time', clock)
    monkeypatch.setattr(arsr.train, 'hardware', plain)
    return clock

@pytest.fixture
def train(clock):
    def train(out, **kwargs):
        model = make_model()
        return fit(model, clock.ticking(noisy_loss), Toy(), out, SETTINGS, **kwargs), model
    return train

def trained_pieces():
    model = make_model()
    opt, ema = torch.optim.AdamW(model.parameters(), 1e-2), EMA(model)
    for _ in range(2):
        noisy_loss(model, torch.randn(4, 4)).backward()
        opt.step()
        opt.zero_grad()
        ema.update_parameters(model)
    return model, ema, opt

def test_a_checkpoint_brings_everything_back(tmp_path):
    model, ema, opt = trained_pieces()
    save_checkpoint(tmp_path, model, ema, opt, dict(step=2, seconds=1.5, loss=None))
    other = make_model()
    other_ema, other_opt = EMA(other), torch.optim.AdamW(other.parameters(), 1e-2)
    assert load_checkpoint(tmp_path, other, other_ema, other_opt) == dict(step=2, seconds=1.5, loss=None)
    for a, b in ((model.state_dict(), other.state_dict()), (ema.module.state_dict(), other_ema.module.state_dict())):
        for k in a: assert torch.equal(a[k], b[k])
    for a, b in zip(opt.state_dict()['state'].values(), other_opt.state_dict()['state'].values()):
        for k in a: assert torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k]))

def test_a_crash_while_saving_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    pieces = trained_pieces()
    save_checkpoint(tmp_path, *pieces, dict(step=2))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert list(before) == ['checkpoint.safetensors']
    def crash(tensors, path, metadata):
        path.write_bytes(b'half')
        raise OSError('disk full')
    monkeypatch.setattr(arsr.train, 'save_file', crash)
    with pytest.raises(OSError, match='disk full'): save_checkpoint(tmp_path, *pieces, dict(step=3))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before

def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    resource = pytest.importorskip('resource')
    pieces = trained_pieces()
    save_checkpoint(tmp_path, *pieces, dict(step=2))
    path, (soft, hard) = tmp_path/'checkpoint.safetensors', resource.getrlimit(resource.RLIMIT_FSIZE)
    before = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))  # no file may grow any larger
    try:
        with pytest.raises(OSError, match='checkpoint.safetensors could not be written') as error:
            save_checkpoint(tmp_path, *pieces, dict(step=3))
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert '\n' not in str(error.value)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]

@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
@pytest.mark.parametrize('part', ['model', 'average', 'optimizer'])
def test_no_checkpoint_holds_what_is_not_finite(tmp_path, refuses, bad, part):
    model, ema, opt = trained_pieces()
    save_checkpoint(tmp_path, model, ema, opt, dict(step=2))
    path = tmp_path/'checkpoint.safetensors'
    before = path.read_bytes()
    where = dict(model=model[0].weight, average=ema.module[0].weight, optimizer=opt.state[model[0].weight]['exp_avg'])
    where[part].data[0, 0] = bad
    with refuses('checkpoint.safetensors is not written', 'not finite'):
        save_checkpoint(tmp_path, model, ema, opt, dict(step=3))
    assert path.read_bytes() == before

def test_inputs_are_compared_with_those_of_the_checkpoint(train, tmp_path, refuses):
    check_inputs(tmp_path, dict(pictures='a'))  # there is nothing yet
    state, _ = train(tmp_path, steps=2, inputs=dict(pictures='a', encoder='b'))
    assert state['inputs'] == dict(pictures='a', encoder='b')
    check_inputs(tmp_path, dict(pictures='a', encoder='b'))
    for inputs, changed in ((dict(pictures='c', encoder='b'), 'pictures'), (dict(pictures='c'), 'pictures, encoder'),
                            (dict(pictures='a', encoder='b', latent='d'), 'latent')):
        with refuses(f'{tmp_path} was begun with other inputs ({changed})', 'another folder'):
            check_inputs(tmp_path, inputs)
    train(tmp_path/'old', steps=2)  # of a version that noted none
    check_inputs(tmp_path/'old', dict(pictures='a'))

@pytest.mark.parametrize('share', [0., .5, .99])
def test_a_damaged_checkpoint_refused(tmp_path, refuses, share):
    save_checkpoint(tmp_path, *trained_pieces(), dict(step=2))
    path = tmp_path/'checkpoint.safetensors'
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * share)])
    with refuses('checkpoint.safetensors is not a complete checkpoint', 'delete it'):
        fit(make_model(), noisy_loss, Toy(), tmp_path, SETTINGS, steps=6)

def test_the_checkpoint_of_another_model_refused(tmp_path, refuses):
    save_checkpoint(tmp_path, *trained_pieces(), dict(step=2))
    with refuses('belongs to another model', 'another folder'):
        fit(nn.Linear(4, 1), noisy_loss, Toy(), tmp_path, SETTINGS, steps=6)

# steps that are not finite

def plain_model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))

def plain_loss(model, x): return (model(x) - x.sum(1, keepdim=True)).square().mean()

class Broken(Toy):
    "The toy's samples with broken batches of four put in before some of them."
    def __init__(self, at, value=float('nan')): self.at, self.value = at, value
    def __getitem__(self, k):
        before = sum(b < k // 4 for b in self.at)
        return torch.full((4,), self.value) if k // 4 in self.at else super().__getitem__(k - 4 * before)

def tensors(folder): return load_file(folder/'checkpoint.safetensors')

def assert_same(a, b):
    assert a.keys() == b.keys()
    for k in a: assert torch.equal(a[k], b[k]), k

def steep_loss(model, x):
    "Where samples are broken, only the gradient is not finite."
    return plain_loss(model, x) if x.max() < 9 else plain_loss(model, x / 9) + (0 * model[0].weight).sum().sqrt()

@pytest.mark.parametrize('value', [float('nan'), float('inf'), 9.])
def test_a_step_that_is_not_finite_changes_nothing_but_the_count(tmp_path, value):
    whole = fit(plain_model(), steep_loss, Toy(), tmp_path/'whole', SETTINGS, steps=6)
    state = fit(plain_model(), steep_loss, Broken({0, 3, 4}, value), tmp_path/'broken', SETTINGS, steps=6)
    assert (whole['step'], whole['skipped']) == (6, 0) and (state['step'], state['skipped']) == (6, 3)
    assert math.isfinite(state['loss'])
    assert_same(tensors(tmp_path/'whole'), tensors(tmp_path/'broken'))

def test_resume_is_exact_over_skipped_steps(clock, tmp_path):
    def run(name, **budget):
        return fit(make_model(), clock.ticking(noisy_loss), Broken({1, 4}), tmp_path/name, SETTINGS, steps=6, **budget)
    run('straight')
    assert run('pieces', minutes=3 / 60)['skipped'] == 1
    assert run('pieces')['skipped'] == 2
    assert_same(tensors(tmp_path/'straight'), tensors(tmp_path/'pieces'))

def test_many_such_steps_in_a_row_end_the_training(tmp_path, refuses):
    broken, model = Broken(set(range(3, 3 + PATIENCE))), plain_model()
    words = f'{PATIENCE} steps in a row', 'broken is as it was before them, after step 3', 'learning rate'
    with refuses(*words):
        fit(model, plain_loss, broken, tmp_path/'broken', SETTINGS, steps=6)
    fit(plain_model(), plain_loss, Toy(), tmp_path/'whole', SETTINGS, steps=6)
    assert all(x.isfinite().all() for x in tensors(tmp_path/'broken').values())
    state = fit(plain_model(), plain_loss, broken, tmp_path/'broken', SETTINGS, steps=6)  # beyond them all is well
    assert (state['step'], state['skipped']) == (6, PATIENCE)
    assert_same(tensors(tmp_path/'whole'), tensors(tmp_path/'broken'))

def test_one_less_in_a_row_does_not(tmp_path):
    broken = Broken({*range(1, PATIENCE), *range(PATIENCE + 1, 2 * PATIENCE)})
    assert fit(plain_model(), plain_loss, broken, tmp_path, SETTINGS, steps=3)['skipped'] == 2 * PATIENCE - 2

@pytest.fixture
def scaled(monkeypatch):
    "Gradients scaled as for fp16, by a scaler whose first scale is far too large and that tries a larger one soon."
    real = Accelerator.__init__
    def init(self, *args, **kwargs):
        real(self, *args, **kwargs)
        self.scaler = torch.amp.GradScaler('cpu', init_scale=2.**127, growth_interval=3)
    def unscale(self, optimizer=None):
        for opt in self._optimizers: self.scaler.unscale_(opt.optimizer)
    monkeypatch.setattr(Accelerator, '__init__', init)
    monkeypatch.setattr(Accelerator, 'unscale_gradients', unscale)

def test_the_scaler_belongs_to_the_checkpoint(scaled, clock, tmp_path):
    def run(name, **budget):
        return fit(make_model(), clock.ticking(noisy_loss), Toy(), tmp_path/name, SETTINGS, steps=9, **budget)
    straight, first = run('straight'), run('pieces', minutes=8 / 60)
    assert 0 < first['step'] < 9 and 0 < first['skipped'] <= straight['skipped']
    pieces = run('pieces')
    assert (pieces['step'], pieces['skipped'], pieces['scaler']) == (9, straight['skipped'], straight['scaler'])
    assert_same(tensors(tmp_path/'straight'), tensors(tmp_path/'pieces'))

def test_steps_skipped_by_the_scaler_move_neither_average_nor_budget(scaled, tmp_path):
    state = fit(plain_model(), plain_loss, Toy(), tmp_path, SETTINGS, steps=1)
    assert state['step'] == 1 and state['skipped'] > 0
    saved, start = tensors(tmp_path), plain_model().state_dict()
    decay = 1 / 10  # of the first average: 1 / (9 + 1)
    average = decay * start['0.weight'] + (1 - decay) * saved['model.0.weight']
    assert_close(saved['ema.0.weight'], average)
    assert saved['opt.0.step'] == 1 and not torch.equal(saved['model.0.weight'], start['0.weight'])

# killed, and several at once

def processes(what, folder, number):
    script = Path(__file__).with_name('processes.py')
    done = subprocess.run([sys.executable, script, what, folder, str(number)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout

@pytest.mark.skipif(not hasattr(__import__('os'), 'fork'), reason='needs fork')
@pytest.mark.parametrize('kills', [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_training_that_is_killed_ends_with_the_same_weights(tmp_path, kills):
    "At random moments, and every third time halfway through the writing of a checkpoint."
    assert 'killed' in processes('killed', tmp_path, kills)
    assert_same(tensors(tmp_path/'straight'), tensors(tmp_path/'killed'))

@pytest.mark.skipif(not hasattr(__import__('os'), 'fork'), reason='needs fork')
def test_three_processes_train_what_one_does(tmp_path):
    processes('shared', tmp_path, 3)
    shared, alone = tensors(tmp_path/'shared'), tensors(tmp_path/'alone')
    assert shared.keys() == alone.keys() and 'model.norm.running_var' in alone
    free = 'encoder.layers.7.bias', 'encoder.layers.8.bias'  # what is normalised after them does not depend on them
    for k in alone:
        if k.startswith('model.') and not k.endswith(free): assert_close(shared[k], alone[k], atol=1e-4, rtol=1e-4)

def test_a_batch_that_cannot_be_shared_refused(refuses):
    with refuses('3 processes cannot share a batch of 4'): batches(Toy(), SETTINGS, dict(step=0, skipped=0), 3)
    assert len(next(iter(batches(Toy(), SETTINGS, dict(step=0, skipped=0), 2)))) == 2

# the loop

@pytest.mark.parametrize('budget', [
    dict(steps=0), dict(minutes=0), dict(minutes=-1), dict(plan=0), dict(minutes=float('nan'))])
def test_budgets_refused(train, tmp_path, refuses, budget):
    with refuses(next(iter(budget)), 'must be above zero'): train(tmp_path, **budget)

def test_stops_by_steps(train, tmp_path):
    state, model = train(tmp_path, steps=6)
    assert state['step'] == 6 and state['seconds'] == 6 and math.isfinite(state['loss'])
    again, same = train(tmp_path, steps=6)  # there is nothing left to do
    assert again == state
    for k, v in model.state_dict().items(): assert torch.equal(v, same.state_dict()[k])

@pytest.mark.parametrize('budget, steps', [
    (dict(minutes=5 / 60), 5), (dict(plan=7 / 60), 7), (dict(minutes=5 / 60, plan=3 / 60), 3),
    (dict(minutes=1, steps=4), 4)])
def test_stops_by_minutes(train, tmp_path, budget, steps): assert train(tmp_path, **budget)[0]['step'] == steps

@pytest.mark.parametrize('whole', [dict(steps=6), dict(plan=6 / 60)])
def test_resume_is_exact(train, tmp_path, whole):
    straight, _ = train(tmp_path/'straight', **whole)
    first, _ = train(tmp_path/'pieces', minutes=3 / 60, **whole)
    assert first['step'] == 3
    second, _ = train(tmp_path/'pieces', minutes=60, **whole)
    assert second['step'] == straight['step'] == 6 and second['seconds'] == straight['seconds']
    a, b = (load_file(tmp_path/run/'checkpoint.safetensors') for run in ('straight', 'pieces'))
    assert a.keys() == b.keys() and any(k.startswith('opt.') for k in a) and any(k.startswith('ema.') for k in a)
    for k in a: assert torch.equal(a[k], b[k]), k

def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(clock, tmp_path):
    def interrupted(model, x):
        if clock.now == 3: raise KeyboardInterrupt
        return noisy_loss(model, x)
    assert fit(make_model(), clock.ticking(interrupted), Toy(), tmp_path, SETTINGS, steps=6)['step'] == 2
    assert fit(make_model(), noisy_loss, Toy(), tmp_path, SETTINGS, steps=6)['step'] == 6

def test_the_model_is_left_with_the_averaged_weights(train, tmp_path):
    _, model = train(tmp_path, steps=3)
    saved = load_file(tmp_path/'checkpoint.safetensors')
    for k, v in model.state_dict().items(): assert torch.equal(v, saved[f'ema.{k}'])
    assert not torch.equal(saved['ema.0.weight'], saved['model.0.weight'])

def test_every_sample_is_seen_once_in_order(clock, tmp_path):
    class Counting(Toy):
        def __getitem__(self, k): return torch.tensor([float(k)])
    seen = []
    def loss(model, x):
        seen.extend(x[:, 0].tolist())
        return model(x).sum()
    for minutes in (2 / 60, 3 / 60):
        fit(nn.Linear(1, 1), clock.ticking(loss), Counting(), tmp_path, SETTINGS, minutes=minutes)
    assert seen == list(range(5 * 4))

def test_the_gradient_is_clipped(tmp_path):
    model = nn.Linear(1, 1, bias=False)
    grads = []
    model.weight.register_post_accumulate_grad_hook(lambda p: grads.append(p.grad.clone()))
    norms, step = [], torch.optim.AdamW.step
    def noting(self, *args, **kwargs):
        norms.append(model.weight.grad.norm().item())
        return step(self, *args, **kwargs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, 'step', noting)
        fit(model, lambda net, x: 1e4 * net(x[:, :1]).sum(), Toy(), tmp_path, Settings(batch=4, clip=.5), steps=3)
    assert all(g.norm() > 100 for g in grads) and norms == pytest.approx([.5] * 3, rel=1e-3)

def test_a_long_run_saves_and_shows_itself_on_the_way(train, clock, tmp_path, capsys):
    shown = []
    def preview(net, step): shown.append((step, (tmp_path/'checkpoint.safetensors').exists(), net.state_dict().keys()))
    clock.step = 50
    train(tmp_path, steps=13, every=100, preview=preview)
    assert [s[:2] for s in shown] == [(6, True), (12, True), (13, True)]
    assert shown[0][2] == make_model().state_dict().keys()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 and all('loss' in line and 'img/s' in line and '% of peak' in line for line in lines)

def test_operations_are_counted_there_and_back():
    layer, x = torch.nn.Conv2d(3, 5, 3, padding=1), torch.randn(2, 3, 8, 8)
    there, (back, total) = 2 * 2 * 5 * 64 * 3 * 9, count_flops(lambda: layer(x).sum().backward() or 'done')
    assert (back, total) == ('done', 2 * there) and layer.weight.grad.any()
    assert count_flops(lambda: layer(x.requires_grad_()).sum().backward())[1] == 3 * there

def test_looking_on_changes_nothing(make_denoiser):
    def gradients(look):
        net, z = make_denoiser(classes=3), torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(1)
        def work(): DenoisingLoss()(net, dict(z=z, label=torch.tensor([0, 2]))).backward()
        assert not look or count_flops(work)[1] > 0
        if not look: work()
        return [p.grad for p in net.parameters() if p.grad is not None]
    for a, b in zip(gradients(False), gradients(True), strict=True): assert torch.equal(a, b)

def test_the_share_of_the_peak(clock):
    shown, report = [], Report(batch=8, every=1e9, show=lambda line, **_: shown.append(line), peak=1000)
    report.work = 500
    for _ in range(4): report(torch.tensor(1.), dict(step=1, seconds=1), .5)
    clock.now += 8  # half a step a second, 500 operations each
    report.flush(dict(step=4, seconds=8), 1.)
    assert ' 4.0 img/s   25% of peak' in shown[0]

def test_a_helper_brings_the_same_samples(monkeypatch, tmp_path):
    weights = []
    for workers in (0, 1):
        monkeypatch.setattr(arsr.train, 'hardware', partial(plain, workers))
        fit(model := make_model(), noisy_loss, Toy(), tmp_path/str(workers), SETTINGS, steps=5)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])

def test_it_trains_inside_the_wrapper_that_several_devices_need(monkeypatch, make_denoiser, tmp_path):
    class Latents(Toy):
        def __getitem__(self, k): return dict(z=torch.full((4, 8, 8), k / 8))
    def run(name):
        fit(make_denoiser(), DenoisingLoss(), Latents(), tmp_path/name, SETTINGS, steps=2)
        return load_file(tmp_path/name/'checkpoint.safetensors')
    bare = run('bare')
    def wrap(self, model, **kwargs): return nn.parallel.DistributedDataParallel(model)
    monkeypatch.setattr(Accelerator, 'prepare_model', wrap)
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try: wrapped = run('wrapped')
    finally: torch.distributed.destroy_process_group()
    assert bare.keys() == wrapped.keys()
    for k in bare: assert_close(bare[k], wrapped[k])

class FakeBar:
    "Stands in for fastprogress's bar in a notebook, and notes what it is told."
    comment = ''
    def __init__(self): self.main_bar, self.shown, self.graphs, self.lines = self, [], [], []
    def update(self, value): self.shown.append((value, self.comment))
    def update_graph(self, graphs, x_bounds, figsize):
        assert x_bounds[1] > graphs[0][0][-1] * 1.2  # the legend does not touch the curve
        self.graphs.append(graphs[0])
    def write(self, line): self.lines.append(line)

@pytest.mark.parametrize('minutes, end', [(None, 999), (30 / 60, 500)])
def test_in_a_notebook_there_is_one_bar_and_one_plot(train, monkeypatch, tmp_path, capsys, minutes, end):
    made = []
    monkeypatch.setattr(arsr.train, 'in_notebook', lambda: True)
    monkeypatch.setattr(fastprogress.fastprogress, 'master_bar', lambda *_, **__: made.append(FakeBar()) or made[0])
    state, _ = train(tmp_path, steps=60, minutes=minutes)
    bar, = made
    assert capsys.readouterr().out == ''
    assert bar.shown[-2][0] == end and bar.shown[-1][0] == 1000  # full, so that it goes
    line, = bar.lines
    assert f"step {state['step']:6d}  loss {state['loss']:.4f}" in line and line == bar.shown[-2][1]
    assert len(bar.graphs[0][0]) == 2 and bar.graphs[-1][0][-1] == state['step'] and len(bar.graphs[-1][0]) > 10

def test_fastprogress_shows_bar_and_plot_and_closes_the_figure(monkeypatch):
    shown = []
    class Handle:
        def update(self, what): shown.append(what)
    monkeypatch.setattr('IPython.display.display', lambda *args, **kwargs: shown.append(args) or Handle())
    monkeypatch.setattr('fastprogress.fastprogress.master_bar', fastprogress.fastprogress.NBMasterBar)
    report = NotebookReport(8)
    report.every = 0
    for step in range(1, 5): report(torch.tensor(1.), dict(step=step, seconds=1), step / 8)
    before = len(plt.get_fignums())
    report.close(dict(step=4, seconds=8), .5)
    assert len(shown) > 6 and before == 1 and not plt.get_fignums()  # an open one would be shown again

def test_outside_a_notebook_there_is_no_bar(monkeypatch):
    assert not in_notebook()
    monkeypatch.setattr('IPython.get_ipython', MagicMock)
    assert in_notebook()

def test_it_learns(clock, tmp_path):
    model = nn.Linear(4, 1)
    def loss(net, x): return (net(x) - x.sum(1, keepdim=True)).square().mean()
    fit(model, loss, Toy(), tmp_path, Settings(lr=.1, batch=16, warmup=1, decay=.9, weight_decay=0), steps=150)
    assert_close(model.weight, torch.ones(1, 4), atol=.02, rtol=0)

# every stage through the same loop

@pytest.fixture(scope='module')
def renders(few): return Renders(few, base=32, sizes=(20, 40), per=2)

def test_encode_renders(renders, first, tmp_path):
    views = dict(z=None, cond=lambda x, i: low_resolution(x, 4 if i == 2 else 2))
    cache = {name: encode_renders(first, renders, tmp_path/name, view, batch=3) for name, view in views.items()}
    assert cache['z'].shape == cache['cond'].shape == (4, 2, 4, 16, 16) and cache['z'].dtype == torch.float16
    x = renders[2][None] / 255
    small = resize(downsample(x.flip(-1), 4), (32, 32)).clamp(0, 1)
    with torch.no_grad():
        assert_close(cache['z'][2, 0], first.encode(to_model(x))[0].half(), atol=2e-3, rtol=2e-3)
        assert_close(cache['z'][2, 1], first.encode(to_model(x.flip(-1)))[0].half(), atol=2e-3, rtol=2e-3)
        assert_close(cache['cond'][2, 1], first.encode(to_model(small))[0].half(), atol=2e-3, rtol=2e-3)

def test_encoding_goes_on_where_it_stopped_and_grows_with_an_endless_source(first, tmp_path):
    source, paths = open_source('portraits'), (tmp_path/'grown', tmp_path/'whole')
    z = encode_renders(first, Renders(source, 32, room=0, first=4), paths[0], batch=2)
    assert z.shape == (4, 1, 4, 16, 16)  # portraits face one way: no mirror images
    paths[0].write_bytes(paths[0].read_bytes()[:-100])  # stopped while it wrote the last
    grown = encode_renders(first, Renders(source, 32, room=0, first=7), paths[0], batch=2)
    whole = encode_renders(first, Renders(source, 32, room=0, first=7), paths[1], batch=2)
    assert len(grown) == 7 and paths[0].stat().st_size == paths[1].stat().st_size == 7 * 4 * 16 * 16 * 2
    assert_close(grown, whole, atol=2e-3, rtol=2e-3)
    assert torch.equal(encode_renders(first, Renders(source, 32, first=3), paths[0]), grown[:3])

def test_labels_of_any_shape():
    class Source:
        mirrored = False
        def __len__(self): return 2**31
        def label(self, i): return [i, 10 * i, 0]
    data = Latents(Renders(Source(), 32, first=5), dict(z=torch.arange(5.).view(5, 1, 1, 1, 1)), labels=True)
    batch = torch.utils.data.default_collate([data[k] for k in range(9)])
    assert batch['label'].shape == (9, 3) and torch.equal(batch['label'][:, 1], 10 * batch['z'].flatten().long())

def test_latents(renders):
    z = torch.arange(8.).view(4, 2, 1, 1, 1)
    data = Latents(renders, dict(z=z, cond=-z), scaling_factor=2., labels=True)
    items = [data[k] for k in range(40)]
    which = torch.stack([item['z'] for item in items]).flatten() * 2
    assert set(which.tolist()) == set(range(8))
    for item, i in zip(items, which.long() // 2):
        assert item['label'] == renders.source.kind[i] and torch.equal(item['cond'], -item['z'])
    assert set(Latents(renders, dict(z=z))[0]) == {'z'}

def test_a_mirrored_latent_is_asked_about_the_mirrored_picture(renders):
    z = torch.arange(8.).view(4, 2, 1, 1, 1)
    data, mirrors = Latents(renders, dict(z=z), queries=30), set()
    for k in range(40):
        item = data[k]
        i, mirror = divmod(int(item['z']), 2)
        size = round(2 / item['cell'][0, 0].item())
        picture = renders.at(i, size)
        if mirror: picture = picture.flip(-1)
        row, col = ((item['coord'] + 1) / 2 * size).long().T
        assert_close(to_model(picture[:, row, col].T / 255), item['rgb'])
        mirrors.add(mirror)
    assert mirrors == {0, 1}

def test_first_and_second_stage_go_through_fit(renders, first, drawings, make_denoiser, tmp_path):
    from arsr.alignment import AlignmentLoss, freeze
    from arsr.data import RandomScaleCrops
    settings = Settings(batch=2, warmup=1)
    state = fit(first, FirstStageLoss(), RandomScaleCrops(renders, 16, 8), tmp_path/'first', settings, steps=2)
    freeze(first)
    views = dict(z=None, cond=lambda x, i: low_resolution(x))
    cache = {name: encode_renders(first, renders, tmp_path/name, view) for name, view in views.items()}
    denoiser = make_denoiser(conditional=True, classes=len(drawings.classes))
    latent = fit(denoiser, DenoisingLoss(), Latents(renders, cache, labels=True), tmp_path/'latent', settings, steps=2)
    align = fit(denoiser, AlignmentLoss(first, w_max=3.), Latents(renders, cache, labels=True, queries=8),
                tmp_path/'align', settings, steps=2)
    assert all(math.isfinite(s['loss']) and s['step'] == 2 for s in (state, latent, align))
