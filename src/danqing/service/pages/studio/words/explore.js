export default {
  en: {
    "explore.title": "Explore between pictures", "explore.lead": "Four seeds are the corners. Everything between them is a picture too, and can be moved along directions of the noise.", "explore.none": "No model of this service can mix seeds at present.",
    "explore.model": "Model", "explore.prompt": "What all pictures show", "explore.label": "What all pictures show", "explore.corner": "Corner {i}, seed {seed}", "explore.again": "Another seed for corner {i}", "explore.all": "Four new seeds",
    "explore.pad": "Place between the corners", "explore.across": "Left to right", "explore.down": "Top to bottom", "explore.at": "{across}% across, {down}% down",
    "explore.between": "The picture at {across}% across and {down}% down", "explore.working": "Generating …", "explore.edit": "Edit", "explore.save": "Save", "explore.sheet": "A sheet of all between", "explore.stop": "Stop", "explore.cell": "{across}% across, {down}% down", "explore.shares": "Shares of the seeds: {shares}",
    "explore.directions": "Directions", "explore.directionsHint": "Along these the picture between the corners changes most.", "explore.direction": "Direction {i}", "explore.deviations": "{distance} standard deviations", "explore.reset": "Reset the directions",
    "explore.behind": "What is behind this picture", "explore.nearest": "Nearest training images", "explore.words": "Where words act", "explore.counts": "What counts", "explore.judge": "Judged by", "explore.judged": "Also for the label", "explore.likeliest": "the most probable alone", "explore.looking": "Looking …",
    "explore.trained": "The training image {name}", "explore.distance": "{name} · distance {distance}", "explore.nearestFound": "The {n} training images most like this picture, the most similar first. Distances are differences of coarse structure and colours in steps of 8 bits; a copy has a distance near 0.",
    "explore.wordAlt": "Where the picture attends to “{name}”", "explore.wordsFound": "Red is where the picture attends to the word more than elsewhere, and the share is that of all attention. It does not say what would change without the word.",
    "explore.labelAlt": "Which places count for {name}", "explore.labelsFound": "Red speaks for the label, blue against it, by {model}. The share is the probability of the label.",
  },
  zh: {
    "explore.title": "在图片之间探索", "explore.lead": "四个种子是四个角，它们之间的每一处也是一张图片，还可以沿噪声的方向移动。", "explore.none": "目前没有可混合种子的模型。",
    "explore.model": "模型", "explore.prompt": "所有图片的内容", "explore.label": "所有图片的内容", "explore.corner": "第 {i} 角，种子 {seed}", "explore.again": "为第 {i} 角换一个种子", "explore.all": "换四个新种子",
    "explore.pad": "四角之间的位置", "explore.across": "从左到右", "explore.down": "从上到下", "explore.at": "横向 {across}%，纵向 {down}%",
    "explore.between": "横向 {across}%、纵向 {down}% 处的图片", "explore.working": "正在生成……", "explore.edit": "编辑", "explore.save": "保存", "explore.sheet": "生成之间的全部图片", "explore.stop": "停止", "explore.cell": "横向 {across}%，纵向 {down}%", "explore.shares": "各种子的占比：{shares}",
    "explore.directions": "方向", "explore.directionsHint": "四角之间的图片沿这些方向变化最大。", "explore.direction": "方向 {i}", "explore.deviations": "{distance} 个标准差", "explore.reset": "方向归零",
    "explore.behind": "图片的来由", "explore.nearest": "最相似的训练图片", "explore.words": "词语作用的位置", "explore.counts": "哪里起作用", "explore.judge": "判断模型", "explore.judged": "另看标签", "explore.likeliest": "仅最可能的标签", "explore.looking": "正在查找……",
    "explore.trained": "训练图片 {name}", "explore.distance": "{name} · 距离 {distance}", "explore.nearestFound": "与这张图片最相似的 {n} 张训练图片，最相似的在前。距离是粗略结构和颜色的差别，以 8 位灰阶为单位；副本的距离接近 0。",
    "explore.wordAlt": "图片关注“{name}”的位置", "explore.wordsFound": "红色处比别处更关注该词，百分比是占全部注意力的份额。它不能说明去掉这个词会改变什么。",
    "explore.labelAlt": "对 {name} 起作用的位置", "explore.labelsFound": "按 {model} 的判断，红色支持该标签，蓝色反对。百分比是该标签的概率。",
  },
};
