// A program of a user's on Anthropic's TypeScript SDK: `node runner.cjs tools` or `node runner.cjs stream`.
const Anthropic = require('@anthropic-ai/sdk').default
const { betaTool } = require('@anthropic-ai/sdk/helpers/beta/json-schema')

const client = new Anthropic({ maxRetries: 0 })
const asked = { model: 'claude-sonnet-4-5', max_tokens: 100 }

const calls = []
const inputSchema = { type: 'object', properties: { to: { type: 'integer' } }, required: ['to'] }
const tools = ['add', 'double'].map((name) =>
  betaTool({ name, inputSchema, description: name, run: ({ to }) => { calls.push([name, to]); return `${to * 2}` } }))

async function useTools(stream, order) {
  const messages = [{ role: 'user', content: order }]
  const runner = client.beta.messages.toolRunner({ ...asked, messages, tools, stream })
  const last = await runner.runUntilDone()
  return last.content.map((block) => block.text).join('')
}

async function main(what, order) {
  if (what === 'tools') {
    for (const stream of [false, true]) {
      const text = await useTools(stream, order)
      console.log(JSON.stringify({ text, calls: calls.splice(0) }))
    }
  } else {
    const stream = client.messages.stream({ ...asked, messages: [{ role: 'user', content: order }] })
    const ended = stream.finalMessage().then((message) => message.stop_reason, (error) => `${error}`)
    console.log(JSON.stringify({ ended: await ended }))
  }
}

main(...process.argv.slice(2))
