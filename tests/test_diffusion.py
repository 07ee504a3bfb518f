import math
import pytest, torch
from hypothesis import given, strategies as st
from torch.testing import assert_close
from arsr.diffusion import (
    SAMPLERS, Schedule, alpha_sigma, cosine_schedule, find_sampler, linear_schedule, make_target, noise_like, q_sample,
    sample_ddim, sample_ddpm, sample_dpmpp_2m, spaced_schedule, to_eps, to_x0, uniform_schedule)

SCHEDULES = {'natural images': linear_schedule(.0015, .0155), 'faces': linear_schedule(.0001, .015),
             'cosine': cosine_schedule()}
PREDICTION_TYPES = st.sampled_from(['eps', 'x0', 'v'])

@pytest.mark.parametrize('name', SCHEDULES)
def test_a_schedule_loses_its_signal_in_1000_steps(name):
    alphas_cumprod = SCHEDULES[name]
    assert len(alphas_cumprod) == 1000 and alphas_cumprod.dtype == torch.float32
    assert (alphas_cumprod.diff() < 0).all() and alphas_cumprod[0] > .998 and 0 < alphas_cumprod[-1] < .01

@pytest.mark.parametrize('betas', [(.0015, .0155), (.0001, .015)])
def test_the_published_schedule_is_linear_in_the_root_of_beta(betas):
    alphas_cumprod = linear_schedule(*betas).double()
    beta = 1 - torch.cat([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])
    assert_close(beta[[0, -1]], torch.tensor(betas).double(), atol=1e-6, rtol=1e-3)
    steps = beta.sqrt().diff()
    assert steps.std() < .1 * steps.mean()

def test_the_cosine_schedule():
    t = torch.tensor([100, 500, 900])
    def wave(t): return torch.cos((t / 1000 + .008) / 1.008 * math.pi / 2)**2
    assert_close(cosine_schedule()[t - 1], wave(t) / wave(torch.tensor(0)), atol=1e-5, rtol=1e-4)

def test_noise_replaces_signal_and_the_variance_stays_one():
    alphas_cumprod, t = SCHEDULES['cosine'], torch.tensor([0, 300, 600, 999])
    z, eps = torch.randn(4, 1, 200, 200), torch.randn(4, 1, 200, 200)
    m, s = alpha_sigma(alphas_cumprod, t)
    assert m.shape == (4, 1, 1, 1)
    assert_close(m**2 + s**2, torch.ones(4, 1, 1, 1))
    z_t = q_sample(z, t, eps, alphas_cumprod)
    assert_close(z_t.std((1, 2, 3)), torch.ones(4), atol=.02, rtol=0)
    assert_close((z_t * z).mean((1, 2, 3)), m.flatten(), atol=.02, rtol=0)

# conversions

@given(prediction_type=PREDICTION_TYPES, t=st.integers(0, 950), name=st.sampled_from([*SCHEDULES]),
       seed=st.integers(0, 99))
def test_conversions_round_trip(prediction_type, t, name, seed):
    torch.manual_seed(seed)
    z, eps, alphas_cumprod = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3), SCHEDULES[name]
    t = torch.tensor([t, t])
    (m, s), z_t = alpha_sigma(alphas_cumprod, t), q_sample(z, t, eps, alphas_cumprod)
    x0 = to_x0(prediction_type, make_target(prediction_type, z, eps, m, s), z_t, m, s)
    assert_close(x0, z, atol=1e-4, rtol=1e-4)
    assert_close(to_eps(z, z_t, m, s), eps, atol=1e-3, rtol=1e-3)

@given(t=st.integers(0, 950), seed=st.integers(0, 99))
def test_any_estimate_is_the_same_in_all_three_parameterisations(t, seed):
    torch.manual_seed(seed)
    m, s = alpha_sigma(SCHEDULES['cosine'], torch.tensor([t]))
    z_t, x0 = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3)
    eps = to_eps(x0, z_t, m, s)
    assert_close(to_x0('eps', eps, z_t, m, s), x0, atol=1e-4, rtol=1e-4)
    v = make_target('v', x0, eps, m, s)
    assert_close(to_x0('v', v, z_t, m, s), x0, atol=1e-3, rtol=1e-3)

def test_noise_is_that_of_its_generator():
    z = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    a, b = (noise_like(z, torch.Generator().manual_seed(k)) for k in (1, 2))
    assert a.shape == z.shape and a.dtype == z.dtype and not torch.equal(a, b)
    assert torch.equal(a, torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).double())

# which timesteps

@given(name=st.sampled_from([*SCHEDULES]), T=st.integers(1, 1000), data=st.data())
def test_a_spaced_schedule_walks_down_from_the_last_timestep_without_repeating(name, T, data):
    steps = data.draw(st.integers(1, T))
    t, a = spaced_schedule(SCHEDULES[name][:T], steps)
    assert len(t) == steps and t[0] == T - 1 and t[-1] >= 0
    assert (t.diff() < 0).all() and torch.equal(a, SCHEDULES[name][t])

def test_a_spaced_schedule_is_even_in_the_root_of_the_angle_behind_it():
    a = spaced_schedule(cosine_schedule(), 8).alphas_cumprod
    assert_close((1 - a.sqrt().acos() / (math.pi / 2)).sqrt(), torch.arange(8) / 8, atol=.02, rtol=0)

@given(T=st.integers(1, 1200), data=st.data())
def test_a_uniform_schedule_is_even_in_the_timestep(T, data):
    steps, seen = data.draw(st.integers(1, min(T, 60))), []
    def denoise(z_t, t):
        seen.append(t.tolist())
        return z_t / 2
    sample_ddim(denoise, torch.randn(2, 1, 1, 1), uniform_schedule(cosine_schedule(T), steps))
    assert len(seen) == steps and seen[0] == [T - 1] * 2
    gaps = -torch.tensor(seen).diff(dim=0)
    assert steps == 1 or (gaps >= 1).all() and gaps.max() - gaps.min() <= 1

@pytest.mark.parametrize('make', [spaced_schedule, uniform_schedule])
@pytest.mark.parametrize('steps', [0, -3, 1001])
def test_steps_refused(make, steps, refuses):
    with refuses('between 1 and 1000', str(steps)): make(SCHEDULES['cosine'], steps)

# samplers, against a problem with a known solution: Gaussian data

SHORT = cosine_schedule(200)
ALL = uniform_schedule(SHORT, 200)

def gaussian(mean, std, alphas_cumprod):
    "The best denoiser for data from N(mean, std^2)."
    def denoise(z_t, t):
        m, s = alpha_sigma(alphas_cumprod, t)
        return mean + m * std**2 / (m**2 * std**2 + s**2) * (z_t - m * mean)
    return denoise

@pytest.mark.parametrize('sampler, schedule, options', [
    pytest.param(sample_ddpm, ALL, {}, id='ddpm'),
    pytest.param(sample_ddim, spaced_schedule(SHORT, 100), {}, id='ddim'),
    pytest.param(sample_ddim, uniform_schedule(SHORT, 50), {}, id='ddim, uniform'),
    pytest.param(sample_ddim, ALL, {'eta': 1}, id='ddim, eta=1'),
    pytest.param(sample_dpmpp_2m, spaced_schedule(SHORT, 20), {}, id='dpmpp_2m')])
@pytest.mark.parametrize('mean, std', [(2., .5), (-1., 1.)])
def test_a_gaussian_is_recovered(sampler, schedule, options, mean, std):
    out = sampler(gaussian(mean, std, SHORT), torch.randn(20_000, 1, 1, 1), schedule, **options)
    assert_close((out.mean().item(), out.std().item()), (mean, std), atol=.03, rtol=0)
    assert (((out - mean) / std)**4).mean().item() == pytest.approx(3, abs=.3)  # kurtosis: the shape, too

@pytest.mark.parametrize('schedule', [ALL, uniform_schedule(SHORT, 20), spaced_schedule(SHORT, 20)])
def test_ddim_with_eta_1_is_ddpm(schedule):
    denoise, z = gaussian(2., .5, SHORT), torch.randn(50, 1, 2, 2)
    def run(sampler, **options):
        return sampler(denoise, z, schedule, generator=torch.Generator().manual_seed(5), **options)
    assert_close(run(sample_ddim, eta=1.), run(sample_ddpm), atol=1e-4, rtol=1e-4)

def test_ddim_with_eta_0_is_a_function_of_its_noise_and_eta_1_is_not():
    denoise, z = gaussian(2., .5, SHORT), torch.randn(5, 1, 1, 1)
    def run(eta, seed):
        generator = torch.Generator().manual_seed(seed)
        return sample_ddim(denoise, z, spaced_schedule(SHORT, 10), generator=generator, eta=eta)
    assert_close(run(0., 1), run(0., 2), atol=0, rtol=0)
    assert_close(run(1., 1), run(1., 1), atol=0, rtol=0)
    assert (run(1., 1) - run(1., 2)).abs().max() > .01

def test_dpmpp_converges_at_second_order_and_ddim_at_first():
    alphas_cumprod, mean, std = cosine_schedule().double(), 1., 1.
    z = torch.linspace(-2, 2, 9).double()[:, None, None, None]
    m, s = (v.item() for v in alpha_sigma(alphas_cumprod, torch.tensor([999])))
    # the probability-flow ODE carries quantiles to quantiles
    exact = mean + std * (z - m * mean) / math.sqrt(m**2 * std**2 + s**2)
    def error(sampler, steps):
        out = sampler(gaussian(mean, std, alphas_cumprod), z, uniform_schedule(alphas_cumprod, steps))
        return (out - exact).abs().max().item()
    def order(sampler): return math.log2(error(sampler, 10) / error(sampler, 80)) / 3
    assert .85 < order(sample_ddim) < 1.15
    assert 1.8 < order(sample_dpmpp_2m)
    assert error(sample_dpmpp_2m, 20) < error(sample_ddim, 80)

@pytest.mark.parametrize('sampler', SAMPLERS.values())
def test_one_evaluation_a_step_each_reported_and_one_step_is_the_first_estimate(sampler):
    seen, reported, z = [], [], torch.randn(3, 1, 2, 2)
    def denoise(z_t, t):
        seen.append((t.tolist(), z_t / 2))
        return z_t / 2
    def callback(step, x0): reported.append((step, x0))
    out = sampler(denoise, z, spaced_schedule(SHORT, 7), callback)
    assert len(seen) == 7 and [t for t, _ in seen] == [[k] * 3 for k in spaced_schedule(SHORT, 7).timesteps.tolist()]
    assert [step for step, _ in reported] == [*range(7)]
    assert all(torch.equal(a[1], b[1]) for a, b in zip(seen, reported))
    assert torch.equal(out, reported[-1][1])
    assert_close(sampler(denoise, z, spaced_schedule(SHORT, 1)), z / 2)

@pytest.mark.parametrize('steps', [199, 200])
def test_a_solver_may_visit_every_timestep(steps):
    out = sample_dpmpp_2m(gaussian(2., .5, SHORT), torch.randn(500, 1, 1, 1), spaced_schedule(SHORT, steps))
    assert out.isfinite().all() and abs(out.mean() - 2) < .1

@pytest.mark.parametrize('sampler', SAMPLERS.values())
def test_a_schedule_may_be_anybodys(sampler):
    t = torch.tensor([199, 180, 150, 110, 70, 30, 5])
    out = sampler(gaussian(2., .5, SHORT), torch.randn(500, 1, 1, 1), Schedule(t, SHORT[t]))
    assert out.shape == (500, 1, 1, 1) and abs(out.mean() - 2) < .15

def test_samplers_are_found_by_name(refuses):
    assert find_sampler('ddim') is sample_ddim and find_sampler(sample_dpmpp_2m) is sample_dpmpp_2m
    with refuses("unknown sampler 'euler'", 'dpmpp_2m, ddim, ddpm'): find_sampler('euler')
