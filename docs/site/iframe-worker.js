// Search without a server: a browser starts no Worker for a page that it opened as a file, so the
// theme's script for the search runs in a hidden frame there. The name of the class is what that
// script looks for; then it waits for importScripts.
if (location.protocol === 'file:') {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement('iframe')
      Object.assign(frame, { hidden: true, srcdoc: '<!doctype html><body>' })
      this.ready = new Promise(resolve => { frame.onload = resolve }).then(() => {
        this.inner = frame.contentWindow
        this.inner.postMessage = data => this.dispatchEvent(new MessageEvent('message', { data }))
        this.inner.importScripts = async (...urls) => { for (const one of urls) await this.load(one) }
        return this.load(url)
      })
      document.documentElement.append(frame)
    }

    load(url) {
      return new Promise((resolve, reject) => {
        const script = this.inner.document.createElement('script')
        Object.assign(script, { src: url, async: false, onload: resolve, onerror: reject })
        this.inner.document.body.append(script)
      })
    }

    postMessage(data) {
      this.ready.then(() => this.inner.dispatchEvent(new MessageEvent('message', { data })))
    }

    terminate() { this.ready.then(() => this.inner.frameElement.remove()) }
  }
}
