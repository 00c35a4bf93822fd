// node build.mjs SOURCE WIT OUT [FEATURE...]: makes a component of a module, for the world `guest`
// of WIT, without those features of the engine.

import { componentize } from '@bytecodealliance/componentize-js';
import { readFileSync, writeFileSync } from 'node:fs';

const [, , source, witPath, out, ...disableFeatures] = process.argv;
const { component } = await componentize(readFileSync(source, 'utf8'), {
  witPath,
  worldName: 'guest',
  disableFeatures,
});
writeFileSync(out, component);
