// An echo server. It has no TLS code: the keep does TLS on descriptor 3.
print("listening");
for (;;) {
  const client = accept(3);
  print(`peer ${peer(client)}`);
  for (let data = read(client); data.byteLength > 0; data = read(client)) write(client, data);
  close(client);
}
