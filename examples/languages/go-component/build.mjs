// node build.mjs MODULE WIT OUT: makes a component of a program for WASI preview 1 that also calls what
// the world `guest` of the WIT imports.

import { componentEmbed, componentNew, preview1AdapterCommandPath } from '@bytecodealliance/jco';
import { readFileSync, writeFileSync } from 'node:fs';

const [, , module, wit, out] = process.argv;
const binary = readFileSync(module);
const witSource = readFileSync(wit, 'utf8');
const adapter = readFileSync(preview1AdapterCommandPath());
const embedded = await componentEmbed({ binary, witSource, world: 'guest' });
writeFileSync(out, await componentNew(embedded, [['wasi_snapshot_preview1', adapter]]));
