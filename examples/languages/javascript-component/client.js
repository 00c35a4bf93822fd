// Sends a line to HOST:PORT, and says who answered, and what.
//
// It connects by opening a file: componentize-js 0.19 cannot call functions that hand over a
// `network`, for that resource has no functions of its own.

import { getArguments } from 'wasi:cli/environment@0.2.0';
import { getDirectories } from 'wasi:filesystem/preopens@0.2.0';
import { ofDescriptor } from 'garrison:keep/peer@0.1.0';

export const run = {
  run() {
    const [, target, said] = getArguments();
    const [[root]] = getDirectories();
    const flags = { read: true, write: true };
    const connection = root.openAt({}, `net/con/${target}`, {}, flags);
    const input = connection.readViaStream(0n);
    const output = connection.writeViaStream(0n);
    const { tcbStatus, spiffeId, ...peer } = ofDescriptor(connection);
    console.log('peer', JSON.stringify(peer));
    output.blockingWriteAndFlush(new TextEncoder().encode(`${said}\n`));
    let text = '';
    while (!text.endsWith('\n')) text += new TextDecoder().decode(input.blockingRead(4096n));
    console.log('echo', text.trim());
  },
};
