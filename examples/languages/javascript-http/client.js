// Sends a line to HOST:PORT with `fetch`, and says who answered, and what.

import { getArguments } from 'wasi:cli/environment@0.2.10';

export const run = {
  async run() {
    const [, target, said] = getArguments();
    // TLS is the keep's: the rule for the host and port says that there is.
    const response = await fetch(`http://${target}/`, { method: 'POST', body: said });
    const peer = {};
    for (const [name, value] of response.headers) {
      if (name.startsWith('garrison-peer-')) peer[name.slice(14).replaceAll('-', '_')] = value;
    }
    console.log('peer', JSON.stringify(peer));
    console.log('echo', await response.text());
  },
};
