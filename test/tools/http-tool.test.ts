import { describe, expect, it } from 'vitest';
import { buildHttpRequest, findHttpFault, type HttpToolSettings, selectResult } from '../../src/services/http-tool.ts';

const base: HttpToolSettings = {
  method: 'GET',
  url: 'https://api.example.com/v1/users/{{id}}?q={{q}}',
  headers: [],
  body: null,
  resultPointer: '',
  idempotencyHeader: 'Idempotency-Key',
};
const names = new Set(['id', 'q', 'address']);
const secretNames = new Set(['TOKEN']);
const secrets = { TOKEN: 'top secret' };
const build = (settings: Partial<HttpToolSettings>, given: Record<string, unknown>) =>
  buildHttpRequest({ ...base, ...settings }, { arguments: given, secrets }, 'key-1');
const failed = (message: RegExp) =>
  expect.objectContaining({ code: 'TOOL_FAILED', message: expect.stringMatching(message) });

describe('settings of an HTTP tool', () => {
  it.each<[string, Partial<HttpToolSettings>]>([
    ['places in path and query', {}],
    ['a place within a segment', { url: 'https://api.example.com/v{{id}}/a.{{q}}.json' }],
    ['no path', { url: 'https://api.example.com' }],
    ['a port', { url: 'https://api.example.com:8443/?a=b&c={{ q }}' }],
    ['a part of an argument', { url: 'https://api.example.com/{{address.street}}' }],
    ['a secret in a header', { headers: [{ name: 'Authorization', value: 'Bearer {{secrets.TOKEN}}' }] }],
    ['content', { method: 'POST', body: { user: { name: '{{id}}', tags: ['a', '{{q}}'] } } }],
    ['a part of the answer', { resultPointer: '/a~1b/0' }],
    ['no header for repetitions', { idempotencyHeader: null }],
  ])('may have %s', (_what, settings) => {
    expect(findHttpFault({ ...base, ...settings }, names, secretNames)).toBeNull();
  });

  it.each<[string, Partial<HttpToolSettings>, string]>([
    ['a place for the host', { url: 'https://{{id}}/a' }, 'url'],
    ['a place in the host', { url: 'https://{{id}}.example.com/a' }, 'url'],
    ['a place behind the host', { url: 'https://api.example.com{{id}}' }, 'url'],
    ['a place for the port', { url: 'https://api.example.com:{{id}}/' }, 'url'],
    ['a place for a user', { url: 'https://{{id}}@api.example.com/' }, 'url'],
    ['a user', { url: 'https://me:you@api.example.com/' }, 'url'],
    ['a fragment', { url: 'https://api.example.com/#{{id}}' }, 'url'],
    ['a place for a name of the query', { url: 'https://api.example.com/?{{id}}=a' }, 'url'],
    ['a path that leads upwards', { url: 'https://api.example.com/a/../{{id}}' }, 'url'],
    ['a path that leads upwards in disguise', { url: 'https://api.example.com/a/%2e%2E/{{id}}' }, 'url'],
    ['a backslash', { url: 'https://api.example.com\\@evil.example/' }, 'url'],
    ['another scheme', { url: 'file:///etc/{{id}}' }, 'url'],
    ['a place that is not closed', { url: 'https://api.example.com/{{id' }, 'url'],
    ['an argument that the schema does not have', { url: 'https://api.example.com/{{other}}' }, 'url'],
    ['a secret that was not given', { url: 'https://api.example.com/{{secrets.OTHER}}' }, 'url'],
    ['a header of the connection', { headers: [{ name: 'Host', value: 'evil.example' }] }, 'headers.0.name'],
    ['a header twice', { headers: ['a', 'A'].map((name) => ({ name, value: '1' })) }, 'headers.1.name'],
    ['a line in a header name', { headers: [{ name: 'a\r\nb', value: '1' }] }, 'headers.0.name'],
    ['a line in a header', { headers: [{ name: 'a', value: '1\r\nb: 2' }] }, 'headers.0.value'],
    ['a password that can be read', { headers: [{ name: 'Authorization', value: 'Bearer abc' }] }, 'headers.0.value'],
    ['content with an unknown place', { body: { a: ['{{other}}'] } }, 'body'],
    ['a pointer that is none', { resultPointer: 'items' }, 'resultPointer'],
    ['a header for repetitions that is not free', { idempotencyHeader: 'Host' }, 'idempotencyHeader'],
  ])('may not have %s', (_what, settings, field) => {
    expect(findHttpFault({ ...base, ...settings }, names, secretNames)).toMatchObject({ field });
  });
});

describe('the request of a call', () => {
  it('holds the arguments, encoded', () => {
    expect(build({}, { id: 'a b/c?d#e&f', q: 'ü=1&x' }).url).toBe(
      'https://api.example.com/v1/users/a%20b%2Fc%3Fd%23e%26f?q=%C3%BC%3D1%26x',
    );
  });

  it.each([
    ['..'],
    ['.'],
    ['%2e%2e'],
    ['%2E.'],
    ['../../admin'],
    ['a/../../b'],
    ['..\\..\\admin'],
    ['a\\..'],
    [' .. '],
    [''],
    ['\ud800'],
  ])('is refused when %j would be part of its path', (id) => {
    expect(() => build({}, { id })).toThrow(failed(/argument/));
  });

  it.each([
    '@evil.example',
    '/@evil.example/',
    '//evil.example',
    '\\evil.example',
    'https://evil.example/',
    '?x=1',
    '#x',
    ':80',
    '\r\nHost: evil.example',
    '\u0000',
    '%00',
    '%2f%2fevil.example',
    '﹕80',
    '／evil',
    '。。',
    '．．',
  ])('goes to the same host and path whatever an argument holds: %j', (id) => {
    const url = new URL(build({}, { id, q: id }).url);
    expect(url.origin).toBe('https://api.example.com');
    expect(url.pathname.split('/')).toHaveLength(4);
    expect(url.searchParams.get('q')).toBe(id);
  });

  it('leaves out what was not given, and repeats a list', () => {
    const url = 'https://api.example.com/?a={{q}}&b={{id}}&fixed=1';
    expect(build({ url }, { q: [1, 'x y'] }).url).toBe('https://api.example.com/?a=1&a=x%20y&fixed=1');
  });

  it('is not made without what its path needs', () => {
    expect(() => build({}, { q: 'a' })).toThrow(failed(/needs a value for `id`/));
  });

  it('sends headers with secrets, and no header whose value was not given', () => {
    const headers = [
      { name: 'Authorization', value: 'Bearer {{secrets.TOKEN}}' },
      { name: 'X-Trace', value: '{{q}}' },
    ];
    expect(build({ headers }, { id: 1 }).headers).toEqual({ authorization: 'Bearer top secret' });
  });

  it.each(['a\r\nx: y', 'a\nb', 'a\u0000', 'łódź'])('never puts %j into a header', (q) => {
    expect(() => build({ headers: [{ name: 'x', value: '{{q}}' }] }, { id: 1, q })).toThrow(failed(/header/));
  });

  it('sends all arguments as JSON, with a key that is the same for each try', () => {
    expect(build({ method: 'POST' }, { id: 'a', q: { deep: [1] } })).toEqual({
      url: 'https://api.example.com/v1/users/a?q=%7B%22deep%22%3A%5B1%5D%7D',
      method: 'POST',
      headers: { 'idempotency-key': 'key-1', 'content-type': 'application/json' },
      body: '{"id":"a","q":{"deep":[1]}}',
    });
  });

  it('sends the content that was laid out, in which texts stay texts', () => {
    const body = { name: '{{id}}', note: 'for {{id}}', list: ['{{q}}', 1, null], missing: '{{address.street}}' };
    const sent = build({ method: 'PUT', body }, { id: '","admin":true,"x":"', q: { a: 1 } });
    expect(JSON.parse(sent.body ?? '')).toEqual({
      name: '","admin":true,"x":"',
      note: 'for ","admin":true,"x":"',
      list: [{ a: 1 }, 1, null],
    });
  });

  it('sends a form when its header says so', () => {
    const headers = [{ name: 'Content-Type', value: 'application/x-www-form-urlencoded' }];
    expect(build({ method: 'POST', headers, body: { a: '{{id}}' } }, { id: 'x&y=z' }).body).toBe('a=x%26y%3Dz');
  });

  it('reads only what the caller gave, not what every object has', () => {
    expect(() => build({ url: 'https://api.example.com/{{id.constructor}}' }, { id: {} })).toThrow(failed(/needs/));
    expect(() => build({ url: 'https://api.example.com/{{secrets.constructor}}' }, {})).toThrow(failed(/needs/));
  });
});

describe('the result of a call', () => {
  const answer = JSON.stringify({ items: [{ 'a/b': 'x' }, { n: 5 }], empty: null });
  it.each([
    ['', answer],
    ['/items/0/a~1b', 'x'],
    ['/items/1', '{"n":5}'],
    ['/empty', 'null'],
  ])('at %j is taken', (resultPointer, result) => {
    expect(selectResult({ ...base, resultPointer }, answer)).toBe(result);
  });

  it.each([['/items/2'], ['/items/length'], ['/items/00'], ['/constructor'], ['/empty/a']])(
    'is missed at %j',
    (resultPointer) => {
      expect(() => selectResult({ ...base, resultPointer }, answer)).toThrow(failed(/holds nothing at/));
    },
  );

  it('needs JSON to take a part of', () => {
    expect(() => selectResult({ ...base, resultPointer: '/a' }, '<p>')).toThrow(failed(/not JSON/));
  });
});
