// Send a line to HOST:PORT and print the answer. The keep does TLS.
import { close, connect, peer, read, write } from "./keep";

const server = connect(process.argv[1]);
console.log("peer " + peer(server));
write(server, Uint8Array.wrap(String.UTF8.encode(process.argv[2] + "\n")));
let answer = "";
while (!answer.endsWith("\n")) {
  const bytes = read(server);
  if (bytes.length == 0) throw new Error("the server went away");
  answer += String.UTF8.decode(bytes.buffer);
}
console.log("echo " + answer.trimEnd());
close(server);
