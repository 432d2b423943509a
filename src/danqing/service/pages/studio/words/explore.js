export default {
  en: {
    "explore.title": "Explore between pictures", "explore.lead": "Four seeds are the corners. Everything between them is a picture too.", "explore.none": "No model of this service can mix seeds at present.",
    "explore.model": "Model", "explore.prompt": "What all pictures show", "explore.label": "What all pictures show", "explore.corner": "Corner {i}, seed {seed}", "explore.again": "Another seed for corner {i}", "explore.all": "Four new seeds",
    "explore.pad": "Place between the corners", "explore.across": "Left to right", "explore.down": "Top to bottom", "explore.at": "{across}% across, {down}% down",
    "explore.between": "The picture at {across}% across and {down}% down", "explore.working": "Generating …", "explore.edit": "Edit", "explore.save": "Save", "explore.sheet": "A sheet of all between", "explore.stop": "Stop", "explore.cell": "{across}% across, {down}% down", "explore.shares": "Shares of the seeds: {shares}",
  },
  zh: {
    "explore.title": "在图片之间探索", "explore.lead": "四个种子是四个角，它们之间的每一处也是一张图片。", "explore.none": "目前没有可混合种子的模型。",
    "explore.model": "模型", "explore.prompt": "所有图片的内容", "explore.label": "所有图片的内容", "explore.corner": "第 {i} 角，种子 {seed}", "explore.again": "为第 {i} 角换一个种子", "explore.all": "换四个新种子",
    "explore.pad": "四角之间的位置", "explore.across": "从左到右", "explore.down": "从上到下", "explore.at": "横向 {across}%，纵向 {down}%",
    "explore.between": "横向 {across}%、纵向 {down}% 处的图片", "explore.working": "正在生成……", "explore.edit": "编辑", "explore.save": "保存", "explore.sheet": "生成之间的全部图片", "explore.stop": "停止", "explore.cell": "横向 {across}%，纵向 {down}%", "explore.shares": "各种子的占比：{shares}",
  },
};
