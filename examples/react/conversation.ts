import type { Event } from './follow.ts';
import type {
  AgentStatus,
  LineFragment,
  PlaceFragment,
  PlanState,
  PlanViewFragment,
  QuestionFragment,
  TaskState,
  WorkFragment,
} from './generated/graphql.ts';

/** What is known of all conversations: what was loaded, and what events have told since. */
export interface Conversations {
  lines: Readonly<Record<string, LineFragment>>;
  tasks: Readonly<Record<string, WorkFragment>>;
  plans: Readonly<Record<string, PlanViewFragment>>;
  questions: Readonly<Record<string, QuestionFragment>>;
  /** Answers that are being written, by the id that their message will have. */
  pieces: Readonly<Record<string, { taskId: string; text: string }>>;
  statuses: Readonly<Record<string, AgentStatus>>;
  /** Grows when events were lost, and what is shown must be loaded anew. */
  losses: number;
}

export const nothingYet: Conversations = {
  lines: {},
  tasks: {},
  plans: {},
  questions: {},
  pieces: {},
  statuses: {},
  losses: 0,
};

export type News =
  | { kind: 'event'; event: Event }
  /** Answers of queries and mutations; they may be older or newer than the events. */
  | {
      kind: 'loaded';
      lines?: readonly LineFragment[];
      tasks?: readonly WorkFragment[];
      plans?: readonly PlanViewFragment[];
      questions?: readonly QuestionFragment[];
    };

/** A message as it is shown. */
export interface ShownMessage {
  id: string;
  author: string;
  isOwn: boolean;
  text: string;
  isBeingWritten: boolean;
  citations: readonly PlaceFragment[];
}

const ended: ReadonlySet<TaskState> = new Set<TaskState>(['COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED']);
const underWay: ReadonlySet<PlanState> = new Set<PlanState>(['PLANNING', 'WAITING', 'RUNNING']);

export function isOver(task: WorkFragment): boolean {
  return ended.has(task.state);
}

/** The state after some news. News that come twice change nothing. */
export function hear(state: Conversations, news: News): Conversations {
  if (news.kind === 'loaded') {
    return hearAnswer(state, news);
  }
  const { event } = news;
  switch (event.__typename) {
    case 'MessageDelta':
      return addPiece(state, event);
    case 'MessageCreated':
      return event.message === null ? state : addLine(state, event.message);
    case 'AgentStatusChanged':
      return event.agent === null
        ? state
        : { ...state, statuses: { ...state.statuses, [event.agent.id]: event.status } };
    case 'PlanningStarted':
    case 'TaskPlanCreated':
    case 'PlanRetried':
    case 'PlanEnded':
      return addPlan(state, event.plan);
    case 'ApprovalRequired':
    case 'ApprovalResolved':
      return event.approval === null ? state : addQuestion(addPlan(state, event.approval.plan), event.approval);
    case 'HistoryLost':
      return { ...forgetOpen(state), losses: state.losses + 1 };
    default:
      return 'task' in event && event.task !== null ? addTask(state, event.task) : state;
  }
}

/** Events come in order; an answer may be older than they are. So of what is still open it tells only what is not known. */
function hearAnswer(state: Conversations, answer: Extract<News, { kind: 'loaded' }>): Conversations {
  const { lines = [], tasks = [], plans = [], questions = [] } = answer;
  const newPlans = plans.filter(({ id, state: now }) => !underWay.has(now) || !(id in state.plans));
  const newQuestions = questions.filter(({ id, state: now }) => now !== 'PENDING' || !(id in state.questions));
  const withTasks = tasks.reduce(addTask, lines.reduce(addLine, state));
  const withPlans = [...newPlans, ...newQuestions.map(({ plan }) => plan)].reduce(addPlan, withTasks);
  const next = newQuestions.reduce(addQuestion, withPlans);
  const known = Object.values(state.tasks).filter(({ id }) => {
    const now = next.tasks[id];
    return now !== undefined && !isOver(now);
  });
  return { ...next, tasks: { ...next.tasks, ...Object.fromEntries(known.map((task) => [task.id, task])) } };
}

/** What was open may have gone on unheard: it is to be told anew. */
function forgetOpen(state: Conversations): Conversations {
  const keep = <Item>(items: Readonly<Record<string, Item>>, isDone: (item: Item) => boolean): Record<string, Item> =>
    Object.fromEntries(Object.entries(items).filter(([, item]) => isDone(item)));
  return {
    ...state,
    tasks: keep(state.tasks, isOver),
    plans: keep(state.plans, (plan) => !underWay.has(plan.state)),
    questions: keep(state.questions, (question) => question.state !== 'PENDING'),
    pieces: {},
  };
}

function addLine(state: Conversations, line: LineFragment): Conversations {
  const { [line.id]: _written, ...pieces } = state.pieces;
  return { ...state, lines: { ...state.lines, [line.id]: line }, pieces };
}

function addTask(state: Conversations, task: WorkFragment): Conversations {
  const known = state.tasks[task.id];
  // An answer that was under way when an event overtook it must not bring an ended task back to life.
  return known !== undefined && isOver(known) && !isOver(task)
    ? state
    : { ...state, tasks: { ...state.tasks, [task.id]: task } };
}

function addPlan(state: Conversations, plan: PlanViewFragment | null): Conversations {
  if (plan === null) {
    return state;
  }
  const tasks = plan.tasks.flatMap(({ task }) => (task === null ? [] : [task]));
  return tasks.reduce(addTask, { ...state, plans: { ...state.plans, [plan.id]: plan } });
}

function addQuestion(state: Conversations, question: QuestionFragment): Conversations {
  const known = state.questions[question.id];
  if (known !== undefined && known.state !== 'PENDING') {
    return state;
  }
  const withQuestion = { ...state, questions: { ...state.questions, [question.id]: question } };
  return question.task === null ? withQuestion : addTask(withQuestion, question.task);
}

/** A piece that does not continue what is known, because some were missed, waits for the whole message. */
function addPiece(
  state: Conversations,
  { messageId, taskId, offset, text }: { messageId: string; taskId: string; offset: number; text: string },
): Conversations {
  const before = state.pieces[messageId]?.text ?? '';
  if (messageId in state.lines || (offset !== 0 && offset !== before.length)) {
    return state;
  }
  const whole = offset === 0 ? text : before + text;
  return { ...state, pieces: { ...state.pieces, [messageId]: { taskId, text: whole } } };
}

/** The messages of a session in their order, with the answers that are being written at the end. */
export function messagesOf(state: Conversations, sessionId: string): ShownMessage[] {
  const stored = Object.values(state.lines)
    .filter((line) => line.session?.id === sessionId)
    .toSorted((one, other) => one.position - other.position)
    .map((line) => ({
      id: line.id,
      author: line.role === 'USER' ? 'You' : (line.agent?.name ?? 'Your team'),
      isOwn: line.role === 'USER',
      text: line.content,
      isBeingWritten: false,
      citations: line.citations,
    }));
  const written = tasksOf(state, sessionId)
    .filter((task) => !isOver(task) && !(task.answerId in state.lines))
    // What a task of a plan comes to is part of the plan; only the answer that is composed of it is a message.
    .filter((task) => task.plan === null || task.answerId in state.pieces)
    .map((task) => ({
      id: task.answerId,
      author: task.agent?.name ?? 'Your team',
      isOwn: false,
      text: state.pieces[task.answerId]?.text ?? '',
      isBeingWritten: true,
      citations: [],
    }));
  return [...stored, ...written];
}

/** The plans of a session, the newest first. Each of their tasks is as the newest news tell of it. */
export function plansOf(state: Conversations, sessionId: string): PlanViewFragment[] {
  return Object.values(state.plans)
    .filter((plan) => plan.session?.id === sessionId)
    .map((plan) => ({
      ...plan,
      tasks: plan.tasks.map((one) => ({
        ...one,
        task: one.task === null ? null : { ...one.task, ...state.tasks[one.task.id] },
      })),
    }))
    .toReversed();
}

/** The tasks of a session in the order in which they became known. */
export function tasksOf(state: Conversations, sessionId: string): WorkFragment[] {
  return Object.values(state.tasks).filter((task) => task.session?.id === sessionId);
}

/** What waits for the user's decision, in all sessions. */
export function openQuestions(state: Conversations): QuestionFragment[] {
  return Object.values(state.questions).filter(({ state: now }) => now === 'PENDING');
}
