/* The pages of the studio, in the order of the menu. To add one, write its module and add a line here.

   name: the page's address is #/name.
   words: its name in the menu.
   load: imports its module when it is opened first. The module has `export function mount(container, context)`, which fills the
     container once, and may return { open(parameters), close(), draw() }: called when the page is shown, with what `context.go`
     was given; when it is hidden; and when the language or the models have changed. What it holds stays while others are shown.
   when: whether this visitor sees it; by default everyone does.

   context.models: of GET /v1/models.
   context.account: who is signed in: { name, scopes, local }.
   context.features: what the service offers besides, such as { gallery: true }.
   context.may(scope), context.has(page): whether the visitor has a scope, and sees a page.
   context.go(page, parameters): opens a page.
   context.announce(text): says it to who reads the screen by ear. */
export const PAGES = [
  { name: "paint", words: { en: "Paint", zh: "生成" }, load: () => import("./paint.js") },
  { name: "edit", words: { en: "Edit", zh: "编辑" }, load: () => import("./edit.js"), when: (context) => context.may("edit") },
  { name: "explore", words: { en: "Explore", zh: "探索" }, load: () => import("./explore.js"), when: (context) => context.may("generate") },
  { name: "gallery", words: { en: "Gallery", zh: "图库" }, load: () => import("./gallery.js"), when: (context) => context.features.gallery },
  { name: "train", words: { en: "Train", zh: "训练" }, load: () => import("./train.js"), when: (context) => context.features.train && context.may("train") },
  { name: "judge", words: { en: "Judge", zh: "评图" }, load: () => import("./judge_sessions.js"), when: (context) => context.may("judge") },
  { name: "account", words: { en: "Account", zh: "账户" }, load: () => import("./account.js") },
];
