// node build.mjs SOURCE WIT OUT: makes a component of a module, for the world `guest` of WIT.

import { componentize } from '@bytecodealliance/componentize-js';
import { readFileSync, writeFileSync } from 'node:fs';

const [, , source, witPath, out] = process.argv;
const { component } = await componentize(readFileSync(source, 'utf8'), {
  witPath,
  worldName: 'guest',
  disableFeatures: ['http', 'fetch-event'],
});
writeFileSync(out, component);
