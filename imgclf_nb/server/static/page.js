// The page for people: it sends images to this server, and to no other, and shows what the model answers.
// It knows /model.json, /predict, /explain, /feedback and /model. Texts are set as texts, never as HTML.

const KEY = 'imgclf-key' // the name in sessionStorage, which ends with the tab
const AT_ONCE = 8        // images of one request
const TRIES = 3          // of a request that a busy server refuses
const BARS = 5           // classes that are seen at first
const OTHER = 'something else …'
const NONE = 'none of these'
const REFUSED = [400, 403, 413, 415, 422] // what a server answers to a request because of what is in it

const state = {model: null, fault: '', key: readKey(), cards: [], waiting: [], isBusy: false, isLocked: false}
const find = id => document.getElementById(id)

class ServerError extends Error {
  constructor(status, sentence) {
    super(sentence)
    this.status = status
  }
}


// ---- words

function formatShare(p) {
  if (p < .01) return '< 1 %'
  if (p > .99) return '> 99 %'
  return `${Math.round(100 * p)} %`
}

const formatTenths = p => `${(100 * p).toFixed(1)} %`
const formatCount = (n, one, many = `${one}s`) => `${n.toLocaleString('en')} ${n === 1 ? one : many}`
const formatMegabytes = bytes => `${(bytes / 1e6).toLocaleString('en', {maximumFractionDigits: 1})} MB`
const joinOr = names => new Intl.ListFormat('en', {type: 'disjunction'}).format(names)

// The reason of an unreadable image, which is written to follow a file's name, as a sentence of its own
function formatSentence(text) {
  const sentence = text.charAt(0).toUpperCase() + text.slice(1)
  return /[.!?…]$/.test(sentence) ? sentence : `${sentence}.`
}

function byProbability(row) {
  return Object.entries(row.probabilities).sort((a, b) => b[1] - a[1])
}

// The classes that it may be, where the model is not sure; otherwise none
function findPossible(row) {
  if (row.decision === 'unlike') return []
  if (row.prediction_set.length > 1) return row.prediction_set
  if (row.decision !== 'unsure') return []
  const likely = []
  let sum = 0
  for (const [name, p] of byProbability(row)) {
    if (sum >= .9 || likely.length === 4) break
    likely.push(name)
    sum += p
  }
  return likely
}

function describeDoubt(row, possible) {
  const all = Object.keys(row.probabilities).length
  if (possible.length === 1) return `Not sure: it may be ${possible[0]}.`
  if (possible.length === all && all > 2) return `Not sure: it may be any of the ${all} classes.`
  return `Not sure: it may be one of ${joinOr(possible)}.`
}

function describeAnswer(row) {
  if (row.error) return formatSentence(row.error)
  if (row.decision === 'unlike') return 'This does not look like what the model was trained on.'
  const possible = findPossible(row)
  if (possible.length) return describeDoubt(row, possible)
  return `${row.decision}, ${formatShare(row.probabilities[row.decision])}`
}

// What a reader needs to understand the answer, as sentences
function explainAnswer(row) {
  const said = []
  const isClass = row.decision in row.probabilities
  const {positive, threshold, least, coverage} = state.model ?? {}
  if (findPossible(row).length && isClass)
    said.push(`Its decision is ${row.decision}, ${formatShare(row.probabilities[row.decision])}.`)
  if (row.decision === 'unlike')
    said.push(`Of 1,000 images like those it learnt from, ${Math.round(1000 * row.novelty) || 'fewer than 1'} look as strange.`,
      `If it had to choose a class, it would be ${row.predicted}.`)
  if (row.decision === 'unsure' && least != null)
    said.push(`It decides for a class from a probability of ${formatShare(least)} on.`)
  if (isClass && threshold != null && row.decision !== row.predicted)
    said.push(`It decides for ${positive} from a probability of ${formatShare(threshold)} on.`)
  if (row.prediction_set.length > 1 && coverage != null && row.decision !== 'unlike')
    said.push(`The correct class is on such a list for ${formatShare(coverage)} of images like those it learnt from.`)
  return said
}

function describeAccuracy(accuracy) {
  if (!accuracy) return ['Nobody has measured how often this model is correct.']
  const {value, low, high, n, split} = accuracy
  const hundred = share => Math.round(100 * share)
  const seen = split === 'test' ? 'that it had never seen' : 'that also helped to choose its settings'
  const images = n == null ? 'images' : formatCount(n, 'image')
  const found = `On ${images} ${seen}, about ${hundred(value)} of 100 answers were correct.`
  if (low == null) return [found]
  const exact = `accuracy ${formatTenths(value)}, 95 % confidence interval ${formatTenths(low)} to ${formatTenths(high)}`
  const range = hundred(low) === hundred(high) ? hundred(low) : `${hundred(low)} to ${hundred(high)}`
  return [found, `Among many more such images it may be ${range} of 100 (${exact}).`,
    'For images of another source or quality it may be less.']
}


// ---- elements

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value)
    else element.setAttribute(name, value)
  }
  element.append(...children)
  return element
}

function makeButton(text, work, about = '') {
  const hidden = about ? [make('span', {class: 'unseen'}, ` ${about}`)] : []
  return make('button', {type: 'button', class: 'quiet', onclick: work}, text, ...hidden)
}

function say(text) { find('status').textContent = text }

function makeBar([name, p], possible) {
  const fill = make('span', {class: 'fill'})
  fill.style.width = `${100 * p}%`
  const kind = possible.includes(name) ? 'likely' : 'other'
  return make('li', {class: kind}, make('span', {class: 'class'}, name),
    make('span', {class: 'bar', 'aria-hidden': 'true'}, fill),
    make('span', {class: 'number'}, formatShare(p)))
}

// All bars of an answer; the first ones are seen, a button shows the rest
function makeBars(row, name) {
  const possible = findPossible(row).length ? findPossible(row) : [row.decision]
  const bars = byProbability(row).map(pair => makeBar(pair, possible))
  const list = make('ul', {class: 'bars', 'aria-label': 'Calibrated probability of each class'}, ...bars)
  if (bars.length <= BARS + 1) return [list]
  for (const bar of bars.slice(BARS)) bar.hidden = true
  const more = makeButton(`Show all ${bars.length} classes`, () => {
    for (const bar of bars) bar.hidden = false
    bars[BARS].tabIndex = -1
    bars[BARS].focus()
    more.remove()
  }, `of ${name}`)
  return [list, more]
}


// ---- talking to the server

function readKey() {
  try { return sessionStorage.getItem(KEY) ?? '' } catch { return '' } // a browser may forbid it
}

function keepKey(key) {
  state.key = key
  try { key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY) } catch { /* only this page knows it */ }
}

const wait = seconds => new Promise(done => setTimeout(done, 1000 * seconds))

async function readSentence(response) {
  try {
    const {error} = await response.json()
    if (error) return error
  } catch { /* no JSON, as from a proxy */ }
  return `The server answered with status ${response.status}.`
}

// One request; a server that is busy is asked again after the seconds that it names
async function ask(path, options = {}, tries = TRIES) {
  const headers = {...options.headers}
  if (state.key) headers['X-API-Key'] = state.key
  const address = new URL(path, document.baseURI)
  let response
  try { response = await fetch(address, {...options, headers, cache: 'no-store', redirect: 'error'}) } catch (error) {
    if (error.name === 'AbortError') throw error
    throw new ServerError(0, 'The server does not answer. Check the connection, then try again.')
  }
  if (response.ok) return response
  if (response.status === 401) throw new ServerError(401, 'The server asks for a key.')
  const sentence = await readSentence(response)
  if (response.status !== 503 || tries <= 1) throw new ServerError(response.status, sentence)
  const seconds = Math.min(Number(response.headers.get('Retry-After')) || 2, 30)
  say(`The server is busy. It is asked again in ${formatCount(seconds, 'second')}.`)
  await wait(seconds)
  options.signal?.throwIfAborted()
  return ask(path, options, tries - 1)
}

function lock(sentence) {
  state.isLocked = true
  find('key-form').hidden = false
  find('key-error').textContent = sentence
  find('key').focus()
}

async function useKey(event) {
  event.preventDefault()
  keepKey(find('key').value.trim())
  state.isLocked = false
  if (!await loadModel()) return
  find('key').value = ''
  find('key-form').hidden = true
  say('The key is accepted.')
  find('choose').focus()
  work()
}

function forgetKey() {
  keepKey('')
  location.reload()
}


// ---- the model

// True if the server has said what its model is
async function loadModel() {
  try {
    const response = await ask('model.json', {}, 100)
    state.model = await response.json()
  } catch (error) {
    state.fault = error.message
    if (error.status !== 401) say(state.fault)
    else lock(state.key ? 'This key is not accepted.' : '')
    return false
  }
  showModel(state.model)
  return true
}

function showModel(model) {
  const {classes} = model
  const shown = classes.length <= 8 ? classes : classes.slice(0, 6)
  const more = classes.length > shown.length ? ` and ${classes.length - shown.length} more` : ''
  find('purpose').textContent = `It says which of ${classes.length} classes an image shows: ${shown.join(', ')}${more}.`
  if (model.unlike != null) find('any-image').textContent = 'It says so if an image does not look like what it was ' +
    'trained on. Something new that looks similar may still get the name of one of these classes.'
  find('privacy').textContent = describePrivacy(model)
  find('about-text').replaceChildren(...describeModel(model).map(text => make('p', {}, text)))
  const rows = classes.map(name => make('tr', {}, make('td', {}, name),
    make('td', {}, (model.trained_on?.by_class?.[name] ?? '–').toLocaleString('en'))))
  find('classes').replaceChildren(...rows)
  find('forget-key').hidden = !state.key
  find('about').hidden = false
}

function describePrivacy(model) {
  const {log, limits} = model
  const images = log?.keeps_images ? 'and the images' : 'but no image'
  const sentences = [`Images are sent to ${location.host} only, unchanged.`]
  if (!log) sentences.push('It keeps neither images nor answers.')
  else sentences.push(`It keeps its answers and measurements of each image, such as size and brightness, ${images}.`,
    'Whoever runs it can delete what it keeps of a request.')
  if (limits?.body_bytes) sentences.push(`Files may have up to ${formatMegabytes(limits.body_bytes)}.`)
  return sentences.join(' ')
}

// By this number whoever runs the server finds what it has kept, and deletes it
function describeRequest(request) {
  if (!state.model?.log) return []
  return [make('p', {class: 'request'}, `Kept as request ${request}`)]
}

function describeModel(model) {
  const trained = model.trained_on
  const said = [describeAccuracy(model.accuracy).join(' ')]
  const classes = formatCount(model.classes.length, 'class', 'classes')
  if (trained?.images != null)
    said.push(`It was trained on ${formatCount(trained.images, 'image')} of ${classes} (${model.dataset}).`)
  said.push('The probabilities are calibrated on images of the same kind: of the answers with 80 %, about 80 of 100 should be correct.')
  if (model.least != null) said.push(`Below a probability of ${formatShare(model.least)} it answers: not sure.`)
  if (model.threshold != null) said.push(`It decides for ${model.positive} from a probability of ${formatShare(model.threshold)} on.`)
  said.push(`Run ${model.run}, weights ${model.weights_sha256.slice(0, 12)}, computed by ${model.runtime} in ${model.precision}.`)
  return said
}

// A link could not send the key
async function downloadCard() {
  try {
    const response = await ask('model')
    const address = URL.createObjectURL(await response.blob())
    make('a', {href: address, download: `${state.model.run}-model-card.html`}).click()
    setTimeout(() => URL.revokeObjectURL(address), 60_000)
  } catch (error) {
    if (error.status === 401) lock('This key is not accepted.')
    else say(error.message)
  }
}


// ---- images

class Card {
  constructor(file) {
    this.file = file
    this.name = file.name || 'pasted image'
    this.isRemoved = false
    this.address = URL.createObjectURL(file)
    this.node = find('card').content.cloneNode(true).firstElementChild
    this.get('.name').textContent = this.name
    this.showPreview()
    this.showWaiting()
  }

  get(selector) { return this.node.querySelector(selector) }

  showPreview() {
    const image = this.get('img')
    image.onerror = () => image.replaceWith(make('p', {}, 'This browser shows no preview of it.'))
    image.src = this.address
  }

  fill(sentence, kind, more, actions) {
    const answer = this.get('.answer')
    answer.className = `answer ${kind}`
    answer.textContent = sentence
    this.get('.more').replaceChildren(...more)
    const remove = makeButton('Remove', () => removeCard(this), this.name)
    this.get('.actions').replaceChildren(...actions, remove)
  }

  showWaiting() { this.fill('Waiting for the answer …', 'waiting', [], []) }

  showError(sentence, mayTryAgain) {
    this.isFailed = true
    const again = makeButton('Try again', () => tryAgain(this), this.name)
    this.fill(sentence, 'error', [], mayTryAgain ? [again] : [])
  }

  showAnswer(row, request, index) {
    Object.assign(this, {row, request, index})
    if (row.error) return this.showError(formatSentence(row.error), false)
    const sentences = explainAnswer(row).map(text => make('p', {}, text))
    const actions = [makeButton('This is wrong', () => openFeedback(this), `about ${this.name}`)]
    if (state.model?.explain)
      actions.unshift(makeButton('Show what it looked at', () => showSaliency(this), `in ${this.name}`))
    const more = [...sentences, ...makeBars(row, this.name), ...describeRequest(request)]
    this.fill(describeAnswer(row), '', more, actions)
  }
}

function addFiles(files) {
  const cards = [...files].map(file => new Card(file))
  if (!cards.length) return
  find('results').hidden = false
  find('cards').append(...cards.map(card => card.node))
  state.cards.push(...cards)
  state.waiting.push(...cards)
  work()
}

function removeCard(card) {
  const next = card.node.nextElementSibling ?? card.node.previousElementSibling
  card.isRemoved = true
  card.controller?.abort()
  URL.revokeObjectURL(card.address)
  card.node.remove()
  state.cards = state.cards.filter(other => other !== card)
  find('results').hidden = !state.cards.length
  say(`${card.name} is removed.`)
  if (next) next.querySelector('.actions button').focus()
  else find('choose').focus()
}

function removeAll() {
  for (const card of [...state.cards]) removeCard(card)
  say('All images are removed.')
  find('choose').focus()
}

function tryAgain(card) {
  card.showWaiting()
  state.waiting.push(card)
  find('results-title').focus()
  work()
}


// ---- asking for answers

// What the server would refuse anyway, '' if nothing
function findFault(file) {
  const bytes = state.model?.limits?.body_bytes
  if (file.size === 0) return 'This file is empty.'
  if (!bytes || file.size + 1000 <= bytes) return ''
  return `This file has ${formatMegabytes(file.size)}; the server takes up to ${formatMegabytes(bytes)}.`
}

// The next images that fit into one request
function takeBatch() {
  const limits = state.model?.limits ?? {}
  const most = Math.min(AT_ONCE, limits.images ?? AT_ONCE)
  const batch = []
  let bytes = 0
  while (state.waiting.length && batch.length < most) {
    const card = state.waiting[0]
    bytes += card.file.size + 1000 // what a part of the form has around the file
    if (batch.length && bytes > (limits.body_bytes ?? Infinity)) break
    state.waiting.shift()
    if (!card.isRemoved) batch.push(card)
  }
  return batch
}

async function work() {
  if (state.isLocked) return say('The images wait for the API key.')
  if (state.isBusy) return
  state.isBusy = true
  if (state.model || await loadModel()) await answerAll()
  else if (!state.isLocked) failAll()
  state.isBusy = false
}

// The server does not even say what its model is
function failAll() {
  for (const card of state.waiting.splice(0)) card.showError(state.fault, true)
}

async function answerAll() {
  const done = []
  while (state.waiting.length && !state.isLocked) {
    const n = state.waiting.length
    if (n > AT_ONCE || !done.length) say(`${formatCount(n, 'image')} waiting for an answer.`)
    const batch = takeBatch()
    await answerBatch(batch)
    done.push(...batch)
  }
  if (!state.isLocked) say(summarise(done.filter(card => !card.isRemoved)))
}

function summarise(cards) {
  if (cards.length <= 3) return cards.map(card => `${card.name}: ${card.get('.answer').textContent}`).join(' ')
  const failed = cards.filter(card => card.isFailed).length
  const answers = formatCount(cards.length - failed, 'answer')
  return failed ? `${answers}; ${formatCount(failed, 'image')} without an answer.` : `${answers}.`
}

async function answerBatch(batch) {
  for (const card of batch) card.isFailed = false
  const fitting = batch.filter(card => {
    const fault = findFault(card.file)
    if (fault) card.showError(fault, false)
    return !fault
  })
  if (fitting.length) await sendBatch(fitting)
}

async function sendBatch(cards) {
  const form = new FormData()
  for (const card of cards) form.append('images', card.file, card.name)
  const controller = new AbortController()
  if (cards.length === 1) cards[0].controller = controller
  try {
    const response = await ask('predict', {method: 'POST', body: form, signal: controller.signal})
    await showAnswers(cards, await response.json())
  } catch (error) {
    await handleFailure(cards, error)
  }
}

async function showAnswers(cards, answer) {
  if (answer.model.weights_sha256 !== state.model.weights_sha256) await loadModel() // it was replaced
  cards.forEach((card, index) => card.showAnswer(answer.predictions[index], answer.request_id, index))
}

// A request that was refused is sent again image by image, so that one image spoils no other
async function handleFailure(cards, error) {
  if (error.name === 'AbortError') return
  if (error.status === 401) {
    state.waiting.unshift(...cards)
    return lock(state.key ? 'This key is not accepted.' : '')
  }
  if (cards.length > 1 && [...REFUSED, 503].includes(error.status)) {
    for (const card of cards.filter(card => !card.isRemoved)) {
      if (state.isLocked) state.waiting.push(card)
      else await sendBatch([card])
    }
    return
  }
  for (const card of cards) await showFailure(card, error)
}

async function showFailure(card, error) {
  const isReadable = await card.file.slice(0, 1).arrayBuffer().then(() => true, () => false)
  if (!isReadable) return card.showError('This file cannot be read any more: choose it again.', false)
  if (!(error instanceof ServerError)) console.error(error)
  const sentence = error instanceof ServerError ? formatSentence(error.message) : 'The answer of the server cannot be understood.'
  card.showError(sentence, !REFUSED.includes(error.status))
}


// ---- saliency maps

async function showSaliency(card) {
  const button = card.get('.actions button')
  const {row} = card
  const name = row.decision in row.probabilities ? row.decision : row.predicted
  button.disabled = true
  say(`The saliency map of ${card.name} is being computed.`)
  try {
    const response = await ask(`explain?class=${encodeURIComponent(name)}`, {
      method: 'POST', body: card.file, headers: {'Content-Type': card.file.type || 'application/octet-stream'}})
    showMap(card, name, await response.blob())
    button.remove()
  } catch (error) {
    button.disabled = false
    if (error.status === 401) lock('This key is not accepted.')
    else say(error.message)
  }
}

function showMap(card, name, blob) {
  const address = URL.createObjectURL(blob)
  const image = make('img', {src: address, alt: `Saliency map of ${card.name}: orange regions speak for ${name}.`})
  image.onload = () => URL.revokeObjectURL(address)
  const caption = make('figcaption', {tabindex: '-1'}, `Saliency map: orange regions speak for ${name}, as far as one can tell.`)
  card.get('.preview').append(make('figure', {}, image, caption))
  say(`The saliency map of ${card.name} is shown.`)
  caption.focus()
}


// ---- corrections

function openFeedback(card) {
  const opened = card.get('.feedback')
  if (opened) return opened.querySelector('select').focus()
  const form = makeFeedback(card)
  card.get('.said').append(form)
  form.querySelector('select').focus()
}

function makeFeedback(card) {
  const id = `label-${card.request}-${card.index}`
  const names = [...Object.keys(card.row.probabilities), NONE, OTHER]
  const options = names.map(name => make('option', {value: name}, name))
  const choice = make('select', {id}, ...options)
  const text = make('input', {type: 'text', maxlength: 200, 'aria-label': 'What it is instead', required: ''})
  text.hidden = text.disabled = true
  choice.onchange = () => {
    text.hidden = text.disabled = choice.value !== OTHER
    if (!text.hidden) text.focus()
  }
  const problem = make('p', {class: 'error', role: 'alert'})
  const send = event => {
    event.preventDefault()
    sendFeedback(card, form, choice.value === OTHER ? text.value.trim() : choice.value, problem)
  }
  const form = make('form', {class: 'feedback', onsubmit: send}, make('label', {for: id}, 'This is wrong, it is a …'),
    choice, text, make('button', {type: 'submit'}, 'Send the correction'),
    makeButton('Cancel', () => closeFeedback(card, form)), problem)
  return form
}

function closeFeedback(card, form) {
  form.remove()
  const buttons = [...card.node.querySelectorAll('.actions button')]
  buttons.find(button => button.textContent.startsWith('This is wrong'))?.focus()
}

async function sendFeedback(card, form, label, problem) {
  if (!label) return
  try {
    await ask('feedback', {method: 'POST', headers: {'Content-Type': 'application/json'},
      body: JSON.stringify({request_id: card.request, index: card.index, label})})
  } catch (error) {
    if (error.status === 401) lock('This key is not accepted.')
    problem.textContent = error.message
    return
  }
  const thanks = make('p', {class: 'feedback', tabindex: '-1'}, `Thank you. The correction is kept: ${label}.`)
  form.replaceWith(thanks)
  thanks.focus()
  say(`The correction of ${card.name} is kept: ${label}.`)
}


// ---- drop, paste, choose

function takeDropped(event) {
  event.preventDefault()
  document.body.classList.remove('dropping')
  const items = [...event.dataTransfer.items]
  if (items.some(item => item.webkitGetAsEntry?.()?.isDirectory))
    return say('A folder cannot be dropped: open it, and drop the images in it.')
  if (!event.dataTransfer.files.length) return say('Only files can be dropped: save the image first.')
  addFiles(event.dataTransfer.files)
}

function takePasted(event) {
  if (event.target.matches?.('input[type=text], input[type=password]')) return
  const {files} = event.clipboardData
  if (files.length) addFiles(files)
  else say('The clipboard holds no image.')
}

function takeChosen(event) {
  addFiles(event.target.files)
  event.target.value = '' // the same image may be chosen again
}

function listen() {
  document.addEventListener('dragover', event => {
    event.preventDefault()
    document.body.classList.add('dropping')
  })
  document.addEventListener('dragleave', event => {
    if (!event.relatedTarget) document.body.classList.remove('dropping')
  })
  document.addEventListener('drop', takeDropped)
  document.addEventListener('paste', takePasted)
  find('choose').addEventListener('change', takeChosen)
  find('photo').addEventListener('change', takeChosen)
  find('clear').addEventListener('click', removeAll)
  find('key-form').addEventListener('submit', useKey)
  find('forget-key').addEventListener('click', forgetKey)
  find('model-card').addEventListener('click', downloadCard)
}

listen()
loadModel().then(isKnown => { if (isKnown && state.waiting.length) work() })
