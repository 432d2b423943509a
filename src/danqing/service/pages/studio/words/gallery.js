export default {
  en: {
    gallery_use: "{n} pictures, {bytes}. Each is kept for {days} days.", gallery_full: "The gallery is full with {n} pictures, {bytes}: new ones are not kept until you delete some.",
    gallery_search: "Search by words", gallery_words: "Words", gallery_album: "Album", gallery_albums: "Edit albums", gallery_rating: "Rating", gallery_any: "any", gallery_everything: "all pictures",
    gallery_albumName: "Name of a new album", gallery_create: "Create", gallery_deleteAlbum: "Delete this album, not its pictures", gallery_into: "Put into an album …", gallery_takeOut: "Take out of this album",
    gallery_selected: "{n} selected", gallery_zip: "Download", gallery_delete: "Delete", gallery_clear: "Select none", gallery_alike: "Pictures that look like this one, the most similar first.", gallery_all: "Show all",
    gallery_found: "{n} pictures", gallery_notFound: "No picture fits this search.", gallery_empty: "Nothing here yet. Pictures appear here when they are made.",
    gallery_untitled: "Untitled", gallery_select: "Select {what}", gallery_open: "Enlarge {what}", gallery_seed: "seed {seed}", gallery_settings: "Use these settings", gallery_similar: "Similar pictures", gallery_edit: "Use as input", gallery_save: "Save",
    gallery_tags: "Tags, with commas", gallery_stars: "{n} stars", gallery_sure: "Delete {n} pictures?", gallery_forGood: "Their files, settings and entries in the registry are deleted for good.", gallery_cancel: "Keep",
  },
  zh: {
    gallery_use: "共 {n} 张图片，{bytes}。每张保留 {days} 天。", gallery_full: "图库已满：{n} 张图片，{bytes}。删除一些之前，新图片不会保留。",
    gallery_search: "按词搜索", gallery_words: "词语", gallery_album: "相册", gallery_albums: "编辑相册", gallery_rating: "评分", gallery_any: "不限", gallery_everything: "全部图片",
    gallery_albumName: "新相册名称", gallery_create: "新建", gallery_deleteAlbum: "删除此相册（保留图片）", gallery_into: "加入相册……", gallery_takeOut: "移出此相册",
    gallery_selected: "已选 {n} 张", gallery_zip: "下载", gallery_delete: "删除", gallery_clear: "取消选择", gallery_alike: "与这张相似的图片，最相似的在前。", gallery_all: "显示全部",
    gallery_found: "{n} 张图片", gallery_notFound: "没有符合条件的图片。", gallery_empty: "还没有图片。生成的图片会出现在这里。",
    gallery_untitled: "无题", gallery_select: "选择 {what}", gallery_open: "放大 {what}", gallery_seed: "种子 {seed}", gallery_settings: "沿用这些设置", gallery_similar: "相似图片", gallery_edit: "用作输入", gallery_save: "保存",
    gallery_tags: "标签，用逗号分隔", gallery_stars: "{n} 星", gallery_sure: "删除 {n} 张图片？", gallery_forGood: "图片文件、设置和登记记录都将被彻底删除。", gallery_cancel: "保留",
  },
};
