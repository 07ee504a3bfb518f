"""The diagram of the method, nbs/images/method.svg, and one for each lesson with its part lit, method-PART.svg.

    python .ci/diagram.py

Text stays text, on a panel of its own that is light or dark with the page.
"""
import re
from pathlib import Path

IMAGES = Path(__file__).resolve().parent.parent/'nbs'/'images'
INK, QUIET, BLUE, RED, GREEN, ORANGE = '#1f2933', '#52606d', '#2f6db3', '#d1495b', '#3b8f6b', '#b9761a'
FIELD = 'encoder latent decoder features query liif output '
PANEL = '#fbfcfd'
DARK = {INK: '#dde3ea', QUIET: '#a9b4c0', BLUE: '#6ea6e8', RED: '#f08391', GREEN: '#6cc39b', ORANGE: '#e0a95a',
        PANEL: '#1d242c'}  # what each colour is on a dark page
LIT = {  # the lesson, and what it is about; the whole diagram has every part lit
    'coords': 'query output', 'data': 'image output', 'autoencoder': 'encoder latent decoder features',
    'liif': 'features query liif output', 'field': FIELD + 'image first', 'diffusion': 'noise sampler latent',
    'unet': 'denoiser condition', 'alignment': 'denoiser latent decoder features liif output align',
    'train': 'first denoising align', 'pipeline': FIELD + 'image condition noise sampler denoiser',
    'metrics': 'image output'}

# ---- shapes

def text(x, y, words, size=16, colour=INK, anchor='middle', weight=400):
    "Words around a point; *those* in italics."
    words = re.sub(r'\*(.+?)\*', r'<tspan font-style="italic">\1</tspan>', words)
    style = f'font-size="{size}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x}" y="{y}" {style}>{words}</text>'

def quiet(x, y, words, anchor='middle'): return text(x, y, words, 14, QUIET, anchor)
def name(x, y, words): return text(x, y, words, 17, weight=600)

def step(y, number, words, colour):
    "One of the three trainings."
    return text(20, y, number, 17, colour, 'start', 700) + text(40, y, words, 15, INK, 'start')

def arrow(d, colour=QUIET, dashes='none'):
    "A line with a head at its end, along an SVG path."
    style = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"'
    return f'<path d="{d}" {style} marker-end="url(#head{colour[1:]})"/>'

def shape(points, colour):
    style = f'fill="{colour}" fill-opacity=".12" stroke="{colour}" stroke-width="2" stroke-linejoin="round"'
    return f'<polygon points="{points}" {style}/>'

def box(x, y, w, h, colour): return shape(f'{x},{y} {x + w},{y} {x + w},{y + h} {x},{y + h}', colour)

def grid(x, y, colour, shades):
    "A square of 4 x 4 cells, each as strong as the next of the shades (0..9)."
    spots = [(x + k % 4 * 12.5, y + k // 4 * 12.5, (int(s) + .5) / 10) for k, s in enumerate(shades)]
    cells = [f'<rect x="{a:g}" y="{b:g}" width="12.5" height="12.5" fill-opacity="{s:g}"/>' for a, b, s in spots]
    frame = f'<rect x="{x}" y="{y}" width="50" height="50" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    return f'<g fill="{colour}">{"".join(cells)}</g>{frame}'

def face(x, y, side):
    "A portrait that is sharp at every size."
    return (f'<g transform="translate({x} {y}) scale({side / 80:g})"><rect width="80" height="80" fill="#cfe3f5"/>'
            f'<path d="M8 80q4-24 32-24t32 24z" fill="{GREEN}"/><circle cx="40" cy="40" r="22" fill="#f0c9a4"/>'
            '<path d="M17 38q-2-27 23-27t23 27q-8-15-23-15t-23 15z" fill="#5b3b26"/>'
            '<circle cx="32" cy="41" r="2.6"/><circle cx="48" cy="41" r="2.6"/>'
            '<path d="M32 51q8 6 16 0" fill="none" stroke="#000" stroke-width="2"/></g>')

# ---- the parts, in the order of the data

UNET = '130,205 232,205 232,275 197,275 197,262 165,262 165,275 130,275'
PARTS = {
    'image': [face(15, 50, 80), text(55, 152, 'image'), quiet(55, 171, '(3, H, W)'), arrow('M98 90H126')],
    'encoder': [shape('130,42 232,65 232,115 130,138', BLUE), name(181, 87, 'Encoder'), text(181, 107, '*E*'),
                arrow('M235 90H262')],
    'latent': [grid(266, 65, BLUE, '1462350741836250'), text(291, 34, 'latent *z*'), quiet(291, 53, '(c, h, w)'),
               arrow('M319 90H347')],
    'decoder': [box(351, 65, 100, 50, BLUE), name(401, 87, 'Decoder'), text(401, 107, '*D*'),
                quiet(401, 137, 'never up-samples'), arrow('M454 90H481')],
    'features': [grid(485, 65, GREEN, '2573146205381647'), text(510, 34, 'features *F*'),
                 quiet(510, 53, '(C, h, w)'), arrow('M538 90H566')],
    'liif': [box(570, 50, 82, 80, GREEN), name(611, 87, 'LIIF'), text(611, 108, '*f*'), arrow('M655 90H682')],
    'output': [face(686, 106, 22), face(714, 84, 44), face(764, 48, 80), text(765, 152, 'any size'),
               quiet(765, 171, 'any window')],
    'query': [box(541, 190, 140, 50, GREEN), text(611, 211, 'point *x*'), quiet(611, 230, 'and its pixel size'),
              arrow('M611 188V134')],
    'noise': [grid(25, 215, RED, '8193720586417290'), text(50, 205, 'noise'), arrow('M78 240H126')],
    'denoiser': [shape(UNET, RED), name(181, 230, 'Denoiser'), quiet(181, 250, 'UNet')],
    'condition': [arrow('M181 130V201', BLUE, '2 4'), quiet(190, 160, 'condition:', 'start'),
                  quiet(190, 177, 'LR input', 'start')],
    'sampler': [arrow('M148 278V302H50V270', RED), quiet(99, 322, 'step by step'), arrow('M235 240H291V119', RED),
                quiet(299, 206, 'sampled', 'start'), quiet(299, 223, 'latent', 'start')],
    'first': [step(362, '1', 'First stage: E, D and LIIF together, absolute error in pixels', BLUE)],
    'denoising': [step(387, '2', 'Denoising: the denoiser, squared error in latents', RED)],
    'align': [step(412, '3', 'Alignment: the denoiser once more, squared error in latents and in pixels', ORANGE),
              arrow('M765 182V300H214V279', ORANGE, '7 5'), quiet(490, 321, 'through D and LIIF, which are frozen'),
              text(490, 291, 'alignment: the error of the pixels teaches the denoiser', 15, ORANGE)],
}

# ---- the drawing

def head(colour):
    "What an arrow of this colour ends with."
    size = 'viewBox="0 0 8 8" refX="6" refY="4" markerWidth="5" markerHeight="5" orient="auto"'
    return f'<marker id="head{colour[1:]}" {size}><path d="M0 0 8 4 0 8z" fill="{colour}"/></marker>'

def dark():
    "The rules of the dark panel. A browser follows the scheme of the page that shows the picture."
    rules = [f'[{use}="{light}"]{{{use}:{colour}}}' for light, colour in DARK.items() for use in ('fill', 'stroke')]
    return f'<style>@media (prefers-color-scheme:dark){{{"".join(rules)}}}</style>'

def diagram(lit):
    "The SVG, all but the named parts pale."
    parts = [f'<g id="{k}" opacity="{1 if k in lit else .3}">{"".join(drawn)}</g>\n' for k, drawn in PARTS.items()]
    font = 'font-family="system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif"'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 430" width="860" height="430" role="img" {font}>'
            f'<title>The method</title>{dark()}<defs>{"".join(map(head, (QUIET, BLUE, RED, ORANGE)))}</defs>'
            f'<rect width="860" height="430" rx="10" fill="{PANEL}"/>\n{"".join(parts)}</svg>\n')

if __name__ == '__main__':
    (IMAGES/'method.svg').write_text(diagram(PARTS), encoding='utf-8')
    for part, lit in LIT.items(): (IMAGES/f'method-{part}.svg').write_text(diagram(lit.split()), encoding='utf-8')
