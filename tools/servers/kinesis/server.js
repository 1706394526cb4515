// Kinesis on loopback: `server.js MODULES PORT`. Streams are in memory, and come and change at once.
const kinesalite = require(`${process.argv[2]}/kinesalite`)

const server = kinesalite({ createStreamMs: 20, deleteStreamMs: 20, updateStreamMs: 20, shardLimit: 10000 })
server.listen(Number(process.argv[3]), '127.0.0.1')
