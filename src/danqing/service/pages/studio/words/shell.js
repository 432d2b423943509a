export default {
  en: {
    skip: "Skip to the content", docs: "API", theme: "Light or dark", other: "中文", menu: "Pages", ready: "Ready", down: "Not ready",
    signIn: "Sign in", key: "Key", keyHint: "This service needs a key. It stays in this browser as a cookie for a week, until you sign out.", open: "Open", wrongKey: "This key is not valid.",
    unreachable: "The service does not answer: is it running?", failed: "The service answered {status}.", updated: "The service was updated: load this page again.",
    previous: "Previous", next: "Next", close: "Close",
    footer: "Danqing, “cinnabar and azurite”: the two pigments that gave Chinese painting its name.",
  },
  zh: {
    skip: "跳到主要内容", docs: "接口", theme: "浅色或深色", other: "English", menu: "页面", ready: "就绪", down: "未就绪",
    signIn: "登录", key: "密钥", keyHint: "此服务需要密钥。登录状态以 Cookie 保存在此浏览器中，一周内有效，退出登录即失效。", open: "进入", wrongKey: "密钥无效。",
    unreachable: "服务没有响应，请检查它是否在运行。", failed: "服务返回了 {status}。", updated: "服务已更新，请重新加载此页面。",
    previous: "上一张", next: "下一张", close: "关闭",
    footer: "“丹”指丹砂，“青”指石青，古人常以“丹青”代指绘画。",
  },
};
