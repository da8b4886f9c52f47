import { parentPort, workerData } from 'node:worker_threads';
import { Readability } from '@mozilla/readability';
import { parseHTML } from 'linkedom';
import TurndownService from 'turndown';

// One thread reads one page: it is told the page as it starts, and ends when it has told what is in it.
const { html, url } = workerData as { html: string; url: string };

/** A page with more is no text to read. */
const mostElements = 20_000;
/** Characters that are kept: more than any model is told. */
const longestText = 200_000;

const { document } = parseHTML(html);
const base = document.createElement('base');
base.setAttribute('href', url);
document.head?.prepend(base);
const title = document.title.trim();
for (const element of document.querySelectorAll('script, style, noscript, template, iframe, svg, canvas')) {
  element.remove();
}
const plain = (document.body?.textContent ?? '').replace(/\s+/g, ' ').trim();
const article = new Readability(document as unknown as Document, { maxElemsToParse: mostElements }).parse();
const content = parseHTML(`<html><body>${article?.content ?? ''}</body></html>`).document.body;
const markdown = new TurndownService({ headingStyle: 'atx', bulletListMarker: '-', codeBlockStyle: 'fenced' })
  .remove(['script', 'style', 'img'] as never)
  .turndown(content as unknown as HTMLElement)
  .trim();
parentPort?.postMessage({
  title: (article?.title || title).slice(0, 500),
  text: (markdown === '' ? plain : markdown).slice(0, longestText),
});
