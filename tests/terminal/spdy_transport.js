// A console client on npm's spdy-transport, the one SPDY library that honours flow control windows.
// usage: node spdy_transport.js URL BYTES; types so many bytes, reads as many, says {"sha256": of what it read, "status"}.
'use strict'
const crypto = require('crypto')
const http = require('http')
const transport = require('spdy-transport')

const url = new URL(process.argv[2])
const bytes = Number(process.argv[3])
const text = Buffer.alloc(bytes, 'typed, and read again; ')
const headers = { Connection: 'Upgrade', Upgrade: 'SPDY/3.1', 'X-Stream-Protocol-Version': 'v4.channel.k8s.io' }

// A GET would end each of its streams at once.
const request = http.request({ host: url.hostname, port: url.port, path: url.pathname, method: 'POST', headers })
request.on('response', (refused) => { console.error(`refused: ${refused.statusCode}`); process.exit(2) })
request.on('upgrade', async (_answer, socket, head) => {
  if (head.length) socket.unshift(head)
  const connection = transport.connection.create(socket, { protocol: 'spdy', isServer: false })
  connection.start(3.1)
  const open = (streamtype) => new Promise((resolve, reject) => {
    const stream = connection.request({ method: 'POST', path: '/', host: 'console', headers: { streamtype } }, (error) => {
      if (error) reject(error)
    })
    stream.on('response', () => resolve(stream))
    stream.on('error', reject)
  })
  const error = await open('error')
  const stdin = await open('stdin')
  const stdout = await open('stdout')
  await open('resize')
  const read = crypto.createHash('sha256')
  let count = 0
  let status = ''
  stdout.on('data', (data) => { read.update(data); count += data.length })
  error.on('data', (data) => { status += data })
  const ended = (stream) => new Promise((resolve) => stream.on('end', resolve))
  const over = Promise.all([ended(stdout), ended(error)])
  stdin.write(text)
  await over
  console.log(JSON.stringify({ sha256: read.digest('hex'), count, status: JSON.parse(status) }))
  socket.destroy()
  process.exit(0)
})
request.end()
