// node build.mjs MODULE OUT: makes a component of a module that calls WASI 0.2 itself.

import { componentNew } from '@bytecodealliance/jco';
import { readFileSync, writeFileSync } from 'node:fs';

const [, , module, out] = process.argv;
writeFileSync(out, await componentNew(readFileSync(module), []));
