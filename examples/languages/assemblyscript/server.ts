// An echo server. It has no TLS code: the keep does TLS on descriptor 3.
import { accept, close, peer, read, write } from "./keep";

console.log("listening");
while (true) {
  const client = accept(3);
  console.log("peer " + peer(client));
  for (let bytes = read(client); bytes.length > 0; bytes = read(client)) write(client, bytes);
  close(client);
}
