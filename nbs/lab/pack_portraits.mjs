// The parts of four families of portraits, out of DiceBear's npm packages into one JSON. Run once, by whoever rebuilds the data:
//
//   npm install --prefix DIR @dicebear/{core,toon-head,micah,adventurer,personas}@9.4.3
//   node nbs/lab/pack_portraits.mjs DIR | xz -9e > arsr/assets/portraits.json.xz
//
// A package holds a function for each part, from colours (and, at times, other parts) to SVG markup. We call every one with
// placeholders: {hair} where another part goes, {hairColor} where a colour goes. What is left are strings that any language can fill in.

import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const FAMILIES = ['toon-head', 'micah', 'adventurer', 'personas'];
const TRIALS = 500;  // portraits of each family that are compared with DiceBear's
const folder = resolve(process.argv[2] ?? '.', 'node_modules/@dicebear');

// What the packages' hooks do beyond drawing lots (micah/lib/hooks, adventurer/lib/hooks), as data.
const HOOKS = {
  'micah': {
    differ: { hairColor: 'baseColor', shirtColor: 'baseColor', glassesColor: 'baseColor' },  // never the colour of the skin
    recolor: [{ if: { facialHair: ['beard'] }, colors: { mouthColor: 'ffffff33' } }],  // a mouth that shows in a beard
  },
  'adventurer': {
    remove: [{ if: { hair: ['long01', 'long04', 'long05', 'long06', 'long20', 'long22', 'long24', 'long26'] }, part: 'earrings' }],  // they could not be seen
  },
};

// Objects whose every field is a placeholder.
const partSlots = new Proxy({}, { get: (_, name) => ({ value: () => `{${name}}` }) });
const colorSlots = new Proxy({}, { get: (_, name) => `{${name}Color}` });

// The body of a picture is a template inside `create`: the same two kinds of placeholders, in the order of painting.
function layoutOf(create) {
  const body = create.toString().match(/body: `([^]*)`,\s*extra:/)[1];
  return body
    .replace(/\$\{\(_\w+ = \(_\w+ = components\.(\w+)\)[^}]*\}/g, '{$1}')
    .replace(/\$\{escape\.xml\(`\$\{colors\.(\w+)\}`\)\}/g, '{$1Color}');
}

async function pack(family) {
  const load = path => import(pathToFileURL(`${folder}/${family}/lib/${path}`));
  const { create, meta, schema } = await load('index.js');
  const components = await load('components/index.js');
  const { version } = JSON.parse(readFileSync(`${folder}/${family}/package.json`));
  const defaults = Object.fromEntries(Object.entries(schema.properties).map(([name, value]) => [name, value.default]));

  const parts = {};
  for (const [part, drawings] of Object.entries(components)) {
    const options = {};
    for (const name of defaults[part]) options[name] = drawings[name](partSlots, colorSlots);
    parts[part] = { probability: (defaults[`${part}Probability`] ?? 100) / 100, options };
  }
  const colors = Object.fromEntries(Object.entries(defaults).filter(([name]) => name.endsWith('Color')));
  const side = Number(create.toString().match(/viewBox: '0 0 (\d+) \1'/)[1]);
  const { title, creator, source, license } = meta;
  return { version, title, creator, source, license: license.name, side, layout: layoutOf(create), parts, colors, ...HOOKS[family] };
}

// Every placeholder must be the name of a part or a colour: nothing else may stand in braces.
function check(family, { layout, parts, colors }) {
  const texts = [layout, ...Object.values(parts).flatMap(part => Object.values(part.options))];
  for (const [brace, name] of texts.flatMap(text => [...text.matchAll(/[{}](\w*)/g)].filter(([b]) => b[0] === '{'))) {
    if (!(name in parts) && !(name in colors)) throw new Error(`${family}: ${brace} is neither a part nor a colour`);
  }
  if (texts.some(text => text.includes('$'))) throw new Error(`${family}: a template is left`);
}

// And filled in, they must be what DiceBear itself draws, letter for letter.
async function compare(family, { layout, parts }) {
  const { createAvatar } = await import(pathToFileURL(`${folder}/core/lib/index.js`));
  const style = await import(pathToFileURL(`${folder}/${family}/lib/index.js`));
  for (let seed = 0; seed < TRIALS; seed++) {
    const { svg, extra } = createAvatar(style, { seed: `${seed}` }).toJson();
    const fill = text => text.replace(/\{(\w+)\}/g, (_, name) => (name in parts ? parts[name].options[extra[name]] ?? '' : extra[name]));
    if (!svg.includes(fill(fill(fill(layout))))) throw new Error(`${family}: portrait ${seed} is another one`);
  }
}

const packed = {};
for (const family of FAMILIES) {
  packed[family] = await pack(family);
  check(family, packed[family]);
  await compare(family, packed[family]);
}
process.stdout.write(JSON.stringify(packed));
