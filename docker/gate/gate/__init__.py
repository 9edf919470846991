"""The gate before the Docker socket: it lets the calls through that deploy replicas, and nothing else.

Who may write to the socket of Docker owns the machine, so only this program can. It listens on TCP, takes
one request a connection, and holds it against `rules.RULES`; what no rule names is refused. What passes is
not the request as it came: method, path, query, headers, JSON and archives are written anew from what was
understood, containers are named by the id that was looked up, and nothing that follows the request is ever
passed on. So there is no second reading of the same bytes. Answers stream back as they come.

Read it in this order; each imports only what stands above it:

- `refusal`: how the gate says no;
- `policy`: whose gate it is, and the names of all that it may touch;
- `wire`: HTTP/1.1, read and written anew;
- `rules`: the table of calls;
- `values`: JSON, and what a value may be;
- `create`: what a new container may be; `build`: of what an image is built; `subjects`: whose containers and
  images a call is about, and what is shown of them;
- `server`: the connections.

The standard library is all that it needs, and all that is in its image.
"""
