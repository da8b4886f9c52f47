import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import {
  type Conversations,
  hear,
  messagesOf,
  type News,
  nothingYet,
  openQuestions,
  plansOf,
} from '../../examples/react/conversation.ts';
import { type Connection, type Event, follow, pauseAfter, type Sink, willPass } from '../../examples/react/follow.ts';
import type {
  LineFragment,
  PlanViewFragment,
  QuestionFragment,
  WorkFragment,
} from '../../examples/react/generated/graphql.ts';

describe('following events', () => {
  let opened: { after: string | undefined; sink: Sink; isClosed: boolean }[];
  let shown: Event[];
  let connection: Connection;

  const start = () =>
    follow(
      (after, sink) => {
        const one = { after, sink, isClosed: false };
        opened.push(one);
        return () => {
          one.isClosed = true;
        };
      },
      {
        event: (event) => shown.push(event),
        connection: (now) => {
          connection = now;
        },
      },
    );
  const newest = () => {
    const one = opened.at(-1);
    if (one === undefined) {
      throw new Error('no connection was opened');
    }
    return one;
  };
  const heartbeat = (cursor: string): Event => ({ __typename: 'Heartbeat', cursor });

  beforeEach(() => {
    vi.useFakeTimers();
    opened = [];
    shown = [];
  });
  afterEach(() => vi.useRealTimers());

  it('comes back behind the newest event', () => {
    start();
    newest().sink.event(heartbeat('one'));
    newest().sink.event(heartbeat('two'));
    newest().sink.ended('broken', false);
    expect(connection).toEqual({ state: 'waiting', reason: 'broken' });
    vi.advanceTimersByTime(250);
    expect(opened.map(({ after }) => after)).toEqual([undefined, 'two']);
  });

  it('takes a connection that is silent for three heartbeats for dead', () => {
    start();
    newest().sink.event(heartbeat('one'));
    vi.advanceTimersByTime(44_999);
    expect(connection).toEqual({ state: 'live' });
    vi.advanceTimersByTime(1);
    expect(opened[0]?.isClosed).toBe(true);
    vi.advanceTimersByTime(250);
    expect(opened.map(({ after }) => after)).toEqual([undefined, 'one']);
  });

  it('hears nothing more of a connection that it gave up', () => {
    start();
    const first = newest();
    first.sink.ended('broken', false);
    first.sink.event(heartbeat('late'));
    first.sink.ended('again', true);
    expect(shown).toEqual([]);
    expect(connection).toEqual({ state: 'waiting', reason: 'broken' });
  });

  it('does not come back when it was refused', () => {
    start();
    newest().sink.ended('bad token', true);
    vi.advanceTimersByTime(60_000);
    expect(opened).toHaveLength(1);
    expect(connection).toEqual({ state: 'refused', reason: 'bad token' });
  });

  it('waits as long as the service asks for before it comes back', () => {
    start();
    const end: Event = { __typename: 'StreamEnded', cursor: 'last', reason: 'SHUTDOWN', reconnectAfter: 3_000 };
    newest().sink.event(end);
    expect(connection).toEqual({ state: 'waiting', reason: 'the service restarts' });
    vi.advanceTimersByTime(2_999);
    expect(opened).toHaveLength(1);
    vi.advanceTimersByTime(1);
    expect(opened.map(({ after }) => after)).toEqual([undefined, 'last']);
  });

  it('asks for a new token when the old one has ended', () => {
    start();
    newest().sink.event({ __typename: 'StreamEnded', cursor: 'last', reason: 'TOKEN_EXPIRED', reconnectAfter: null });
    vi.advanceTimersByTime(60_000);
    expect(opened).toHaveLength(1);
    expect(connection).toMatchObject({ state: 'refused' });
  });

  it('comes back at once when the network does, and only then', () => {
    const follower = start();
    follower.retryNow();
    expect(opened).toHaveLength(1);
    newest().sink.ended('offline', false);
    follower.retryNow();
    expect(opened).toHaveLength(2);
  });

  it('stops for good', () => {
    const follower = start();
    newest().sink.ended('broken', false);
    follower.stop();
    vi.advanceTimersByTime(60_000);
    expect(opened).toHaveLength(1);
  });

  it.each([
    [0, 0, 0],
    [0, 1, 250],
    [1, 1, 500],
    [3, 0.5, 1_000],
    [20, 1, 10_000],
  ])('pauses after %i failures and a throw of %d for %i ms', (failures, random, pause) => {
    expect(pauseAfter(failures, random)).toBe(pause);
  });

  it.each<[number | undefined, string[], boolean]>([
    [undefined, [], true],
    [503, [], true],
    [429, [], true],
    [401, [], false],
    [200, ['SERVICE_BUSY'], true],
    [401, ['UNAUTHENTICATED'], false],
    [200, ['BAD_CURSOR'], false],
  ])('with status %s and codes %j another attempt may help: %s', (status, codes, expected) => {
    const errors = codes.map((code) => ({ extensions: { code } }));
    expect(willPass(status, errors)).toBe(expected);
  });
});

describe('a conversation', () => {
  const line = (id: string, position: number, content: string): LineFragment => ({
    id,
    role: position % 2 === 1 ? 'USER' : 'AGENT',
    content,
    position,
    agent: position % 2 === 1 ? null : { id: 'agent', name: 'Ada' },
    session: { id: 'session' },
    citations: [],
  });
  const task = (state: WorkFragment['state']): WorkFragment => ({
    id: 'task',
    state,
    errorMessage: null,
    progressNote: null,
    answerId: 'answer',
    agent: { id: 'agent', name: 'Ada' },
    session: { id: 'session' },
    plan: null,
  });
  const loaded = (lines: LineFragment[], tasks: WorkFragment[] = []): News => ({ kind: 'loaded', lines, tasks });
  const delta = (offset: number, text: string): News => ({
    kind: 'event',
    event: { __typename: 'MessageDelta', cursor: 'c', messageId: 'answer', taskId: 'task', offset, text },
  });
  const created = (message: LineFragment): News => ({
    kind: 'event',
    event: { __typename: 'MessageCreated', cursor: 'c', message },
  });
  const asks = (state: QuestionFragment['state']): News => ({
    kind: 'event',
    event: {
      __typename: state === 'PENDING' ? 'ApprovalRequired' : 'ApprovalResolved',
      cursor: 'c',
      approval: {
        id: 'approval',
        state,
        kind: 'TOOL',
        toolName: 'mail',
        arguments: { to: 'Ada' },
        argumentsHash: 'hash',
        dangerous: true,
        expiresAt: '2026-11-21T09:30:00.000Z',
        task: task(state === 'PENDING' ? 'WAITING' : 'QUEUED'),
        plan: null,
      },
    },
  });
  const lost: News = { kind: 'event', event: { __typename: 'HistoryLost', cursor: 'c' } };
  const ended: News = {
    kind: 'event',
    event: { __typename: 'TaskCompleted', cursor: 'c', task: task('COMPLETED') },
  };
  const texts = (news: News[]): string[] => {
    const state = news.reduce<Conversations>(hear, nothingYet);
    return messagesOf(state, 'session').map(({ text, isBeingWritten }) => (isBeingWritten ? `${text}…` : text));
  };
  const asked = loaded([line('question', 1, 'Why?')], [task('RUNNING')]);

  it.each<[string, News[], string[]]>([
    ['grows by pieces', [asked, delta(0, 'Be'), delta(2, 'cause')], ['Why?', 'Because…']],
    [
      'leaves out what comes twice',
      [asked, delta(0, 'Be'), delta(2, 'cause'), delta(2, 'cause')],
      ['Why?', 'Because…'],
    ],
    ['waits for the whole when a piece was missed', [asked, delta(0, 'Be'), delta(5, 'se')], ['Why?', 'Be…']],
    ['begins anew with another attempt', [asked, delta(0, 'Be'), delta(0, 'I do')], ['Why?', 'I do…']],
    [
      'shows the stored message in place of its pieces',
      [asked, delta(0, 'Be'), created(line('answer', 2, 'Because.')), ended],
      ['Why?', 'Because.'],
    ],
    [
      'is not undone by a piece that comes late',
      [asked, created(line('answer', 2, 'Because.')), delta(0, 'Be'), ended],
      ['Why?', 'Because.'],
    ],
    [
      'is not undone by an answer to a query that was under way',
      [asked, created(line('answer', 2, 'Because.')), ended, asked],
      ['Why?', 'Because.'],
    ],
  ])('%s', (_case, news, expected) => {
    expect(texts(news)).toEqual(expected);
  });

  it.each<[string, News[], string | undefined]>([
    ['waits when it asks', [asked, asks('PENDING')], 'WAITING'],
    ['waits also when an answer from before comes after', [asks('PENDING'), asked], 'WAITING'],
    ['is unknown when events were lost', [asked, lost], undefined],
    ['is known again when it was loaded anew', [asked, lost, loaded([], [task('QUEUED')])], 'QUEUED'],
  ])('a task %s', (_case, news, expected) => {
    expect(news.reduce<Conversations>(hear, nothingYet).tasks['task']?.state).toBe(expected);
  });

  it.each<[string, News[], number]>([
    ['is shown', [asks('PENDING')], 1],
    ['is shown once, however often it is told', [asks('PENDING'), asks('PENDING')], 1],
    ['is gone when it was decided elsewhere', [asks('PENDING'), asks('APPROVED')], 0],
    ['does not come back with an answer that was under way', [asks('EXPIRED'), asks('PENDING')], 0],
  ])('a question %s', (_case, news, count) => {
    expect(openQuestions(news.reduce<Conversations>(hear, nothingYet))).toHaveLength(count);
  });

  const plan = (state: PlanViewFragment['state'], now: WorkFragment['state']): PlanViewFragment => ({
    id: 'plan',
    state,
    fallbackMessage: null,
    session: { id: 'session' },
    tasks: [
      {
        key: 'first',
        agentName: 'Ada',
        instruction: 'Look it up',
        dependsOn: [],
        result: null,
        task: { ...task(now), plan: { id: 'plan' }, citations: [] },
      },
    ],
  });
  const planned: News = {
    kind: 'event',
    event: { __typename: 'TaskPlanCreated', cursor: 'c', plan: plan('RUNNING', 'QUEUED') },
  };
  const planEnded: News = {
    kind: 'event',
    event: { __typename: 'PlanEnded', cursor: 'c', plan: plan('COMPLETED', 'COMPLETED') },
  };
  const retried: News = {
    kind: 'event',
    event: { __typename: 'PlanRetried', cursor: 'c', plan: plan('RUNNING', 'COMPLETED') },
  };

  it.each<[string, News[], string[]]>([
    ['is shown with its tasks', [planned], ['RUNNING', 'QUEUED']],
    ['follows the news of each task', [planned, ended], ['RUNNING', 'COMPLETED']],
    [
      'is not undone by an answer that was under way',
      [planned, planEnded, { kind: 'loaded', plans: [plan('RUNNING', 'QUEUED')] }],
      ['COMPLETED', 'COMPLETED'],
    ],
    ['runs again when it was retried', [planned, planEnded, retried], ['RUNNING', 'COMPLETED']],
  ])('a plan %s', (_case, news, expected) => {
    const [shown] = plansOf(news.reduce<Conversations>(hear, nothingYet), 'session');
    expect([shown?.state, ...(shown?.tasks.map((one) => one.task?.state) ?? [])]).toEqual(expected);
  });

  it('shows no empty message for a task of a plan', () => {
    expect(texts([planned])).toEqual([]);
  });

  it('of another session stays out of sight', () => {
    const state = hear(nothingYet, asked);
    expect(messagesOf(state, 'other')).toEqual([]);
  });
});
