// Sends back what it is sent, and says who sent it: a handler of the world wasi:http/proxy.

addEventListener('fetch', (event) => event.respondWith(answer(event.request)));

async function answer(request) {
  // The keep sets these fields; a client cannot.
  const peer = {};
  for (const [name, value] of request.headers) {
    if (name.startsWith('garrison-peer-')) peer[name.slice(14).replaceAll('-', '_')] = value;
  }
  console.log('peer', JSON.stringify(peer));
  return new Response(request.body, { headers: { 'content-type': 'text/plain' } });
}
