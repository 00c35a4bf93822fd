// Send a line to HOST:PORT and print the answer. The keep does TLS.
const [address, line] = args;
const server = connect(address);
print(`peer ${peer(server)}`);
write(server, `${line}\n`);
let answer = "";
while (!answer.endsWith("\n")) {
  const data = read(server);
  if (data.byteLength === 0) throw new Error("the server went away");
  answer += String.fromCharCode(...new Uint8Array(data));
}
print(`echo ${answer.trimEnd()}`);
close(server);
