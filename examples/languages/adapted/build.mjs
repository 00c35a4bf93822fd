// node build.mjs MODULE OUT: makes a component of a program for WASI preview 1, with the adapter
// of the Bytecode Alliance, which turns the calls of preview 1 into those of WASI 0.2.

import { componentNew, preview1AdapterCommandPath } from '@bytecodealliance/jco';
import { readFileSync, writeFileSync } from 'node:fs';

const [, , module, out] = process.argv;
const adapter = readFileSync(preview1AdapterCommandPath());
const named = [['wasi_snapshot_preview1', adapter]];
writeFileSync(out, await componentNew(readFileSync(module), named));
