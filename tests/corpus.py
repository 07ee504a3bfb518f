"Hostile pictures, the same for the same seed: mutated files, odd headers, small files that claim to be large."
import io, struct, zlib
import numpy as np
from PIL import Image

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="4" height="9" fill="red"/></svg>'
KINDS = {  # mode, format, options
    'rgb.png': ('RGB', 'PNG', {}), 'rgba.png': ('RGBA', 'PNG', {}), 'palette.png': ('P', 'PNG', dict(transparency=0)),
    'wide.png': ('I;16', 'PNG', {}), 'bits.png': ('1', 'PNG', {}), 'note.png': ('L', 'PNG', dict(dpi=(72, 72))),
    'rgb.jpg': ('RGB', 'JPEG', {}), 'cmyk.jpg': ('CMYK', 'JPEG', {}),
    'steps.jpg': ('RGB', 'JPEG', dict(progressive=True)),
    'rgb.webp': ('RGB', 'WEBP', {}), 'rgba.webp': ('RGBA', 'WEBP', dict(lossless=True)), 'a.gif': ('P', 'GIF', {}),
    'plain.tif': ('RGB', 'TIFF', {}), 'lzw.tif': ('RGBA', 'TIFF', dict(compression='tiff_lzw')),
    'zip.tif': ('RGB', 'TIFF', dict(compression='tiff_adobe_deflate')), 'wide.tif': ('I;16', 'TIFF', {}),
    'jpeg.tif': ('RGB', 'TIFF', dict(compression='jpeg')), 'fax.tif': ('1', 'TIFF', dict(compression='group4')),
    'rgb.bmp': ('RGB', 'BMP', {}), 'palette.bmp': ('P', 'BMP', {}), 'bits.bmp': ('1', 'BMP', {}),
    'a.ico': ('RGBA', 'ICO', {}), 'a.ppm': ('RGB', 'PPM', {}), 'a.tga': ('RGB', 'TGA', dict(compression='tga_rle')),
    'a.jp2': ('RGB', 'JPEG2000', {}), 'a.dds': ('RGBA', 'DDS', {}), 'a.sgi': ('RGB', 'SGI', {}),
    'a.im': ('RGB', 'IM', {}),
    'a.pcx': ('RGB', 'PCX', {}), 'a.qoi': ('RGB', 'QOI', {}), 'a.avif': ('RGB', 'AVIF', {}),
    'a.eps': ('RGB', 'EPS', {})}

def whole()->dict: # name -> bytes
    "A small picture in every format that Pillow can write here."
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 4), dtype=np.uint8)
    files = {'a.svg': SVG}
    for name, (mode, kind, options) in KINDS.items():
        wide = mode == 'I;16'
        im = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257 if wide else pixels)
        if not wide: im = im.convert(mode)
        try: im.save(file := io.BytesIO(), kind, **options)
        except (OSError, KeyError, ValueError): continue # a codec that is not there
        files[name] = file.getvalue()
    exif = Image.Exif()
    exif[0x0112], exif[0x010f] = 6, 'maker'
    for kind in ('JPEG', 'PNG', 'WEBP'):
        Image.fromarray(pixels[..., :3]).save(file := io.BytesIO(), kind, exif=exif, icc_profile=bytes(200))
        files[f'exif.{kind.lower()}'] = file.getvalue()
    frames = [Image.fromarray(np.roll(pixels[..., :3], k, 0)) for k in range(3)]
    for kind in ('GIF', 'WEBP', 'TIFF', 'PNG'):
        frames[0].save(file := io.BytesIO(), kind, save_all=True, append_images=frames[1:])
        files[f'frames.{kind.lower()}'] = file.getvalue()
    return files

EXTREMES = [0, 1, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]

def mutate(data:bytes, rng, others:list)->bytes:
    "One to four changes, where decoders look first more often than elsewhere."
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        n, way = len(data), rng.integers(7)
        if n < 8: break
        at = int(n * rng.random() ** (3 if rng.random() < .5 else 1)) % (n - 4)
        if way == 0: data[at] ^= 1 << int(rng.integers(8))
        elif way == 1: data[at:at + 4] = struct.pack('<>'[rng.integers(2)] + 'I', EXTREMES[rng.integers(len(EXTREMES))])
        elif way == 2: del data[at:]
        elif way == 3: del data[at:at + int(rng.integers(1, 64))]
        elif way == 4: data[at:at] = rng.bytes(int(rng.integers(1, 64)))
        elif way == 5: data[at:at + 16] = rng.bytes(16)
        else: data[at:] = others[rng.integers(len(others))][at:]
    return bytes(data)

def png(*chunks)->bytes: # (kind, content) each
    def number(n): return struct.pack('>I', n)
    def packed(kind, content): return number(len(content)) + kind + content + number(zlib.crc32(kind + content))
    return b'\x89PNG\r\n\x1a\n' + b''.join(packed(*c) for c in chunks)

def header(w:int, h:int, bits:int=8, colour:int=0)->tuple:
    return b'IHDR', struct.pack('>IIBBBBB', w, h, bits, colour, 0, 0, 0)

def odd()->dict: # name -> bytes
    "What no mutation finds: bombs, empty files, other things under the name of a picture."
    zeros, few, end = zlib.compress(bytes(2**24)), zlib.compress(bytes(90)), (b'IEND', b'')
    bomb = zlib.compress(bytes(2**27))
    screen = struct.pack('<HH', 65535, 65535)
    gif = b'GIF89a' + screen + b'\xf0\0\0' + bytes(6) + b',' + bytes(4) + screen
    tags = struct.pack('<HHIIHHIIHHII', 256, 4, 1, 2**32 - 1, 257, 4, 1, 2**32 - 1, 273, 4, 2**31, 8)
    eps = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n'
    return {
        'empty.png': b'', 'one.jpg': b'\xff', 'line.png': b'\n', 'text.webp': b'hello\nworld\n',
        'page.jpg': b'<html><body>404</body>', 'null.png': bytes(10**6),
        'head.png': png(header(9, 9)), 'none.png': png(header(0, 0), (b'IDAT', b''), end),
        'bomb.png': png(header(30000, 30000, 1), (b'IDAT', zeros), end),
        'large.png': png(header(9000, 9000, 1), (b'IDAT', zeros), end),
        'most.png': png(header(2**31 - 1, 2**31 - 1), (b'IDAT', zeros), end),
        'bits.png': png(header(9, 9, 7, 5), (b'IDAT', zeros), end),
        'words.png': png(header(9, 9), (b'zTXt', b'a\0\0' + bomb), (b'IDAT', few), end),
        'profile.png': png(header(9, 9), (b'iCCP', b'a\0\0' + bomb), (b'IDAT', few), end),
        'palette.png': png(header(9, 9, 8, 3), (b'IDAT', few), end),
        'screen.gif': gif + b'\0\2\1\0\0;', 'screen2.gif': gif,
        'huge.ppm': b'P6 99999 99999 255\n', 'odd.ppm': b'P6 -1 x 0\n' + bytes(9),
        'digits.ppm': b'P6 ' + b'9' * 5000 + b' 1 255\n', 'line.pnm': b'P1 ' + b'#' * 10**6,
        'loop.eps': eps, 'a.pdf': b'%PDF-1.7\n', 'a.zip': b'PK\5\6' + bytes(18),
        'huge.bmp': b'BM' + bytes(12) + struct.pack('<IiiHHIIiiII', 40, 2**31 - 1, -2**31, 1, 24, *[0] * 6),
        'huge.tif': b'II*\0\x08\0\0\0\3\0' + tags, 'ring.tif': b'II*\0\x08\0\0\0\0\0\x08\0\0\0',
        'huge.tga': struct.pack('<BBBHHBHHHHBB', 0, 0, 2, 0, 0, 0, 0, 0, 65535, 65535, 24, 0),
        'huge.jpg': b'\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\3\1\x11\0\2\x11\1\3\x11\1\xff\xd9',
        'huge.webp': b'RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0' + b'\xff' * 6,
        'huge.qoi': b'qoif' + struct.pack('>IIBB', 2**31, 2**31, 3, 0), 'nested.svg': b'<svg>' + b'<g>' * 10**5,
        'entities.svg': b'<!DOCTYPE x [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><svg>&b;</svg>'}

FOUND = {}  # by fuzzing: name -> bytes; each was an exception of another kind, or too slow, once

def corpus(n:int, seed:int=0): # pairs of name and bytes; the odd ones first
    files, rng = whole(), np.random.default_rng(seed)
    names, contents = [*files], [*files.values()]
    yield from [*odd().items(), *FOUND.items()][:n]
    for k in range(n - len(odd()) - len(FOUND)):
        i = rng.integers(len(names))
        yield f'{k:04d}-{names[i]}', mutate(contents[i], rng, contents)
